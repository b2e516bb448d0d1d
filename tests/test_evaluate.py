"""What a headline number may not see, both ways; subsets, keys and archives as EVALUATION.md says; late fusion of models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.evaluation.evaluate import evaluate
from mmvae.evaluation.report import write_evaluation
from mmvae.evaluation.table import subsets_of
from mmvae.metrics.scores import METRICS
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed


@pytest.fixture(scope="module")
def model(trained):
    return MMVAE.load_from_checkpoint(trained)


@pytest.fixture(scope="module")
def table(model, cohort):
    return evaluate([model], cohort)


# Of t1, t2, contrast and clinical, written out.
SUBSETS = {
    "t1", "t2", "contrast", "clinical",
    "t1+t2", "contrast+t1", "clinical+t1", "contrast+t2", "clinical+t2", "clinical+contrast",
    "contrast+t1+t2", "clinical+t1+t2", "clinical+contrast+t1", "clinical+contrast+t2",
    "clinical+contrast+t1+t2",
}  # fmt: skip


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
    return {key: row.value.table for key, row in table.rows.items() if not key.startswith("with_answers/")}


def test_answers_of_test_cases_change_no_headline_number_by_one_bit(model, table, phantom, cohort, tmp_path):
    other = evaluate([model], with_other_answers(phantom, cohort, tmp_path / "other"))
    a, b = headline(table), headline(other)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    # The answers did change: an archive that encodes them moves.
    assert not np.array_equal(
        points_with_answers(model, cohort), points_with_answers(model, Cohort.load(tmp_path / "other"))
    )


def points_with_answers(model, cohort):
    experts = embed(model, cohort, cohort.split("test"))
    return experts.points(model.space, experts.present)


def test_an_answer_role_moved_out_of_the_list_does_see_a_change(trained, phantom, cohort, tmp_path):
    """The same test finds a leak that is planted: terms as a query role."""
    leaky = MMVAE.load_from_checkpoint(trained)
    leaky.answer_roles = ["report"]
    open_card = replace(cohort.card, answers=replace(cohort.card.answers, terms=False))
    other = with_other_answers(phantom, cohort, tmp_path / "other")
    a = evaluate([leaky], replace(cohort, card=open_card))
    b = evaluate([leaky], replace(other, card=open_card))
    assert any(
        not np.array_equal(a.rows[k].value.table, b.rows[k].value.table, equal_nan=True)
        for k in a.rows
        if "terms" in k or k == "full"
    )


def test_every_subset_of_the_query_roles_is_a_key_and_small_test_sets_use_the_training_archive(table):
    subsets = {key for key in table.rows if "/" not in key} - {"full"}
    assert subsets == SUBSETS
    assert {key.removeprefix("unseen/") for key in table.rows if key.startswith("unseen/")} == SUBSETS | {
        "full", "group/images"
    }  # fmt: skip
    assert set(table.rows) >= {
        "full", "group/images", "late/full", "late/group/images", "joint/full", "with_answers/full"
    }  # fmt: skip
    assert table.protocol["archive"] == "training"


def test_subsets_are_all_of_them_by_size_each_sorted():
    assert subsets_of(["t2", "t1", "dwi"]) == [
        ("dwi",), ("t1",), ("t2",), ("dwi", "t1"), ("dwi", "t2"), ("t1", "t2"), ("dwi", "t1", "t2")
    ]  # fmt: skip


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
    with pytest.raises(InputError, match="'grade' is not a target"):
        evaluate([model], cohort, "grade")


def test_a_checkpoint_of_other_splits_is_refused(model, cohort):
    split = cohort.splits.folds[0]
    moved = replace(split, train=split.train[1:], test=(*split.test, split.train[0]))
    with pytest.raises(InputError, match="trained on other splits"):
        evaluate([model], replace(cohort, splits=replace(cohort.splits, folds=(moved,))))


# ---- late fusion of separate models ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def separate(trained):
    """Two models of one query role each, with the weights of the trained one."""

    def alone(role):
        whole = MMVAE.load_from_checkpoint(trained)
        model = MMVAE({role: whole.modalities[role]}, latent_dim=whole.latent_dim, fusion=whole.rule)
        model.supervision, model.data_identity = dict(whole.supervision), dict(whole.data_identity)
        model.build()
        kept = {k: v for k, v in whole.state_dict().items() if k.split(".")[1:2] == [role]}
        model.load_state_dict(kept, strict=False)
        return model.eval()

    return [alone("t2"), alone("clinical")]


def test_several_models_are_fused_late_and_summarised_though_no_row_is_full(separate, cohort, tmp_path):
    table = evaluate(separate, cohort)
    assert {key for key in table.rows if "/" not in key} == {"t2", "clinical"}
    assert "late/full" in table.rows and "full" not in table.rows
    estimates = table.metrics()  # raised KeyError: 'full' in release 0.1
    assert set(estimates["late/full"]) == set(METRICS)
    assert {"macro/t2", "macro/clinical"} <= set(estimates)
    assert not any(key.startswith("paired/") for key in estimates)
    write_evaluation(separate, cohort, tmp_path / "late")
    written = json.loads((tmp_path / "late" / "metrics.json").read_text())
    assert written["late/full"]["mAP"]["n"] == estimates["late/full"]["mAP"].n > 0
    assert len(written["fingerprint"]) == 2


def test_late_fusion_of_separate_models_is_the_mean_of_reciprocal_ranks_or_of_standardised_similarities(
    separate, cohort
):
    """By loops over queries, roles and archive cases, from each model's own points."""
    found = evaluate(separate, cohort).rows["late/full"]
    archive, queries = cohort.split("train"), cohort.split("test")
    fused = {"zscore": {}, "rrf": {}}
    for query in queries:
        sums = {rule: {case.case_id: [] for case in archive} for rule in fused}
        for model in separate:
            distance = distances_by_model(model, cohort, query, archive)
            known = np.array([d for d in distance.values() if d is not None])
            for name, d in distance.items():
                if d is not None:
                    sums["rrf"][name].append(1 / (60 + 1 + (known < d).sum()))
                    sums["zscore"][name].append(-(d - known.mean()) / (known.std() + 1e-9))
        for rule, by_case in sums.items():
            order = sorted((c for c in by_case if by_case[c]), key=lambda c: -np.mean(by_case[c]))
            fused[rule][query.patient] = average_precision(cohort, query, order)
    means = [np.nanmean([fused[rule][patient] for patient in found.patients]) for rule in fused]
    assert any(np.nanmean(found.value.mAP) == pytest.approx(mean, abs=1e-6) for mean in means)


def distances_by_model(model, cohort, query, archive):
    """Cosine distance of the query to each archive case in the model's space; None where either lacks the role."""
    experts = embed(model, cohort, [query, *archive])
    points, has = experts.points(model.space, experts.present).astype(float), experts.present.any(1)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return {
        case.case_id: float(1 - unit[0] @ unit[n]) if has[0] and has[n] else None
        for n, case in enumerate(archive, 1)
    }


def average_precision(cohort, query, order):
    hits, total = 0, 0.0
    for rank, name in enumerate(order, 1):
        if cohort.case(name).labels["histology"] == query.labels["histology"]:
            hits += 1
            total += hits / rank
    return total / hits if hits else np.nan
