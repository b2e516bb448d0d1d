"""The record holds to the contract; its statistics are the textbook's."""

import numpy as np
import pytest
import torch
from mmvae_clinical import Clinical
from scipy import stats

from mmvae.case import Card, Field, View
from mmvae.errors import InputError
from mmvae.modality import TrainingViews
from mmvae.testing import CHECKS, Subject

RECORDS = [
    {
        "age_years": 30 + 7 * n,
        "marker": float(np.exp(n / 2.0) ** 2),
        **({"sex": "FM"[n % 2]} if n != 3 else {}),
    }
    for n in range(9)
] + [{"age_years": 41, "marker": 3.0, "sex": "F"}]
CARD = Card("c", "table", fields={"sex": Field("category", values=("F", "M"))})


def views_of(folder):
    return [View(folder, record=record) for record in RECORDS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(check, tmp_path):
    views = views_of(tmp_path / "DOE")
    check(Subject(Clinical(), views[:9], views[9:], CARD, identifiers=("DOE",)))


def test_median_and_interquartile_range_are_scipy_s_and_a_skewed_field_is_in_log(tmp_path):
    fitted = Clinical().fitted(TrainingViews(CARD, views_of(tmp_path)))
    at = fitted.fields.index("age_years")
    ages = [r["age_years"] for r in RECORDS]
    assert fitted.centre[at] == pytest.approx(np.median(ages), abs=1e-5)
    assert fitted.spread[at] == pytest.approx(stats.iqr(ages) / 1.349, abs=1e-5)
    assert fitted.log[fitted.fields.index("marker")]
    assert not fitted.log[at]


def test_scores_are_scipy_s_student_t_and_a_softmax(tmp_path):
    fitted = Clinical().fitted(TrainingViews(CARD, views_of(tmp_path)))
    decoder, z = fitted.decoder(3), torch.randn(1, 3)
    got = decoder(z)
    outputs, sizes = decoder.head(z)[0].detach().numpy(), list(map(len, fitted.categories))
    # The head's outputs: the numbers in their order, then the values of each category in theirs.
    parts = np.split(outputs, np.cumsum([1] * sizes.count(0) + [n for n in sizes if n])[:-1])
    order = [n for n, size in enumerate(sizes) if not size] + [n for n, size in enumerate(sizes) if size]
    for n, head in zip(order, parts):
        size = sizes[n]
        value = torch.zeros(1, len(fitted.fields))
        value[0, n] = 1.0
        oracle = head[1] - np.log(np.exp(head).sum()) if size else stats.t.logpdf(1.0, 5, loc=head[0])
        assert float(got.log_prob(value)[0, n]) == pytest.approx(float(oracle), abs=1e-4)


def test_an_unknown_category_is_missing_and_said_so(tmp_path):
    fitted = Clinical().fitted(TrainingViews(CARD, views_of(tmp_path)))
    view = View(tmp_path, record={"sex": "X", "age_years": 50})
    assert not fitted.read(view).mask[fitted.fields.index("sex")]
    assert "'X'" in fitted.misfits(view)[0]


def test_a_word_in_a_number_is_refused_by_name(tmp_path):
    fitted = Clinical().fitted(TrainingViews(CARD, views_of(tmp_path)))
    with pytest.raises(InputError, match="'age_years' is 'old', expected a number"):
        fitted.read(View(tmp_path, record={"age_years": "old"}))


@pytest.mark.parametrize("record", [{"age_years": 40.0, "marker": 2.0}, {"sex": "F", "parity": "0"}])
def test_a_record_of_numbers_alone_and_one_of_categories_alone(record, tmp_path):
    views = [View(tmp_path, record=record), View(tmp_path, record={})]
    fitted = Clinical().fitted(TrainingViews(CARD, views))
    seen = [fitted.read(view) for view in views]
    value, mask = torch.stack([s.value for s in seen]), torch.stack([s.mask for s in seen])
    encoded = fitted.encoder(3)(value, mask)
    scores = fitted.decoder(3)(encoded.mean).log_prob(value)
    assert scores.shape == (2, 2)
    assert torch.isfinite(scores).all()
    assert torch.isfinite(encoded.logvar).all()
