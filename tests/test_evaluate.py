"""What a headline number may not see, both ways; subsets, keys and archives as EVALUATION.md says."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.evaluation.evaluate import evaluate, subsets_of
from mmvae.model import MMVAE


@pytest.fixture(scope="module")
def model(trained):
    return MMVAE.load_from_checkpoint(trained)


@pytest.fixture(scope="module")
def table(model, cohort):
    return evaluate([model], cohort)


def with_other_answers(phantom, cohort, folder):
    """The cohort in which every test case's report, terms, labels-as-seen and answer fields are another's."""
    shutil.copytree(phantom, folder, ignore=shutil.ignore_patterns(".cache"))
    test = {case.case_id for case in cohort.split("test")}
    lines = []
    for line in (folder / "cases.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["case_id"] in test:
            case["terms"] = ["curve: high", "fat: present"]
            for asset in case["assets"]:
                if asset["type"] == "text":
                    (folder / asset["uri"]).write_text("Something else entirely was written here.")
                    asset["sha256"] = "changed" + case["case_id"]
        lines.append(json.dumps(case))
    (folder / "cases.jsonl").write_text("\n".join(lines) + "\n")
    return Cohort.load(folder)


def headline(table):
    return {key: row.value for key, row in table.rows.items() if not key.startswith("with_answers/")}


def test_answers_of_test_cases_change_no_headline_number_by_one_bit(model, table, phantom, cohort, tmp_path):
    other = evaluate([model], with_other_answers(phantom, cohort, tmp_path / "other"))
    a, b = headline(table), headline(other)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    # The answers did change: an archive that encodes them moves.
    assert not np.array_equal(
        _with_answers_means(model, cohort), _with_answers_means(model, Cohort.load(tmp_path / "other"))
    )


def _with_answers_means(model, cohort):
    from mmvae.retrieval.embed import embed

    experts = embed(model, cohort, cohort.split("test"))
    return experts.means(model.rule, experts.present)


def test_an_answer_role_moved_out_of_the_list_does_see_a_change(trained, phantom, cohort, tmp_path):
    """The same test finds a leak that is planted: terms as a query role."""
    leaky = MMVAE.load_from_checkpoint(trained)
    leaky.answer_roles = ["report"]
    open_card = replace(cohort.card, answers=replace(cohort.card.answers, terms=False))
    other = with_other_answers(phantom, cohort, tmp_path / "other")
    a = evaluate([leaky], replace(cohort, card=open_card))
    b = evaluate([leaky], replace(other, card=open_card))
    assert any(
        not np.array_equal(a.rows[k].value, b.rows[k].value, equal_nan=True)
        for k in a.rows
        if "terms" in k or k == "full"
    )


def test_every_subset_of_the_query_roles_is_a_key_and_small_test_sets_use_the_training_archive(table):
    roles = ["t1", "t2", "contrast", "clinical"]
    wanted = {"+".join(subset) for subset in subsets_of(roles)}
    assert len(wanted) == 15
    assert wanted <= set(table.rows)
    assert {"full", "group/images", "late/full", "joint/full", "with_answers/full", "unseen/full"} <= set(
        table.rows
    )
    assert table.protocol["archive"] == "training"


def test_a_subset_s_queries_have_all_its_roles(table, cohort):
    kinds = lambda case: {asset.kind for asset in case.assets}  # noqa: E731
    both = [c for c in cohort.split("test") if "t2" in kinds(c) and "contrast" in kinds(c)]
    assert len(table.rows["contrast+t2"].patients) == len(both)


def test_metrics_json_has_the_keys_that_scripts_rely_on(trained, phantom, tmp_path):
    out = tmp_path / "evaluation"
    assert main(["evaluate", "--checkpoint", str(trained), "--cohort", str(phantom), "--out", str(out)]) == 0
    metrics = json.loads(
        (out / "metrics.json").read_text(), parse_constant=lambda c: pytest.fail(f"found {c}")
    )
    for key in ("full", "paired/full-t2", "macro/full", "class/fibroma/full", "late/full"):
        assert set(metrics[key]["mAP"]) == {"value", "low", "high", "chance", "n"}
    assert metrics["paired/full-t2"]["mAP"]["chance"] == 0
    assert metrics["protocol"]["supervision"] == ["findings", "report"]
    for plot in ("subsets.png", "classes.png", "map.png"):
        assert (out / plot).stat().st_size > 5000


def test_one_target_may_be_asked_for_and_an_unknown_one_is_refused(model, cohort):
    assert evaluate([model], cohort, "orads").protocol["relevance"] == [{"gain": 1, "same": ["orads"]}]
    with pytest.raises(InputError, match="'grade' is no target"):
        evaluate([model], cohort, "grade")


def test_a_checkpoint_of_other_splits_is_refused(model, cohort):
    split = cohort.splits.folds[0]
    moved = replace(split, train=split.train[1:], test=(*split.test, split.train[0]))
    with pytest.raises(InputError, match="trained on other splits"):
        evaluate([model], replace(cohort, splits=replace(cohort.splits, folds=(moved,))))
