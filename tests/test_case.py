"""The cohort folder: what is written is read; what does not fit is refused by file, line and field."""

import json
import shutil

import pytest

from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.splits import Split, Splits, draw_splits


@pytest.fixture
def copy(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "cohort", ignore=shutil.ignore_patterns("*.nii.gz", ".cache"))
    return tmp_path / "cohort"


def rewrite(copy, change):
    lines = [json.loads(line) for line in (copy / "cases.jsonl").read_text().splitlines()]
    change(lines)
    (copy / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_cohort_is_read_as_it_was_written(cohort):
    assert len(cohort.cases) == 40
    assert len(cohort.split("test")) == 10
    assert cohort.card.answers.kinds == ("report",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.append(c[0]), r"line 41: case_id '.*' stands on line 1 too"),
        (
            lambda c: c[1]["record"].update(age_years=float("nan")),
            r"line 2: found NaN; a missing value is absent or null",
        ),
        (
            lambda c: c[2]["record"].update(age_years=[1]),
            r"line 3: record field 'age_years' is \[1\], expected a finite number",
        ),
        (lambda c: c[0].pop("patient"), r"line 1: the field 'patient' is None, expected a string"),
        (lambda c: c[0]["assets"][0].pop("uri"), r"line 1: asset 0 lacks 'uri'"),
        (lambda c: c[0]["assets"][0].update(type="movie"), r"type 'movie', expected one of volume"),
        (lambda c: c[0]["assets"][0].update(uri="../x"), r"uri that leaves the cohort"),
        (lambda c: c[0].update(frame_mm=[1, 2]), r"frame_mm: found \[1, 2\], expected three numbers"),
        (lambda c: c.clear(), r"holds no case"),
    ],
)
def test_bad_lines_are_refused_by_name(copy, change, message):
    rewrite(copy, change)
    with pytest.raises(InputError, match=message):
        Cohort.load(copy)


def test_a_folder_that_is_no_cohort_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"no card.json. Make one with `mmvae scan`"):
        Cohort.load(tmp_path)


def test_a_split_whose_groups_straddle_is_refused(copy):
    plain = json.loads((copy / "splits.json").read_text())
    plain["test"].append(plain["train"][0])
    (copy / "splits.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="stands in both train and test of fold 0"):
        Cohort.load(copy)


def test_splits_of_another_cohort_are_refused(copy):
    (copy / "splits.json").write_text(json.dumps({"train": ["x"], "validation": ["y"], "test": ["z"]}))
    with pytest.raises(InputError, match="none of the cohort's 40"):
        Cohort.load(copy)


def test_a_patient_s_cases_stay_together_and_every_patient_is_tested_once():
    patients = [f"p{n // 2}" for n in range(40)]
    folds = draw_splits(patients, folds=5, seed=1).folds
    tested = [p for fold in folds for p in fold.test]
    assert sorted(tested) == sorted(set(patients))
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert not set(fold.validation) & set(fold.test)


def test_a_fold_must_be_named_where_there_are_several():
    splits = Splits((Split(("a",), ("b",), ("c",)), Split(("b",), ("c",), ("a",))), single=False)
    with pytest.raises(InputError, match=r"holds 2 folds and data.fold is not set"):
        splits.fold(None)
