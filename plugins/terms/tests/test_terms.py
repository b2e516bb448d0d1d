"""Terms hold to the contract; silence is not denial."""

import pytest
from mmvae_terms import Terms

from mmvae.case import Card, View
from mmvae.errors import InputError
from mmvae.modality import TrainingViews
from mmvae.testing import CHECKS, Subject

CARD = Card(
    "c",
    "table",
    terms=(
        {"name": "curve: low", "parent": "curve"},
        {"name": "curve: high", "parent": "curve"},
        {"name": "ascites", "parent": None},
    ),
)
LISTS = [("curve: low",), ("curve: high", "ascites"), (), ("ascites",), ("curve: low", "ascites")]


def views_of(folder):
    return [View(folder, terms=terms, labels={"histology": "ab"[n % 2]}) for n, terms in enumerate(LISTS)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "recipe", [Terms(), Terms(source="labels", label="histology")], ids=["terms", "labels"]
)
def test_conforms(recipe, check, tmp_path):
    views = views_of(tmp_path / "DOE")
    check(Subject(recipe, views[:4], views[4:], CARD, identifiers=("DOE",)))


def test_silence_on_a_question_is_missing_and_a_closed_term_is_denied(tmp_path):
    fitted = Terms().fitted(TrainingViews(CARD, views_of(tmp_path)))
    silent = fitted.read(View(tmp_path, terms=("ascites",)))
    assert silent.mask.tolist() == [False, False, True]
    answered = fitted.read(View(tmp_path, terms=("curve: low",)))
    assert answered.mask.tolist() == [True, True, True]
    assert answered.value.tolist() == [1, 0, 0]


def test_names_and_parents_come_from_a_file(tmp_path):
    (tmp_path / "terms.yaml").write_text("- nodule\n- {name: 'size: big', parent: size}\n")
    fitted = Terms(file=str(tmp_path / "terms.yaml")).fitted(TrainingViews(CARD, ()))
    assert fitted.names == ("nodule", "size: big")
    assert fitted.parents == ("", "size")


def test_a_label_that_no_training_case_has_is_refused(tmp_path):
    with pytest.raises(InputError, match="label 'grade' in no training case"):
        Terms(source="labels", label="grade").fitted(TrainingViews(CARD, views_of(tmp_path)))


def test_a_role_of_a_label_says_that_it_teaches_labels():
    assert Terms(source="labels", label="x").teaches("terms") == "labels"
    assert Terms().teaches("terms") == "findings"
