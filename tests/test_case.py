"""The cohort folder: what is written is read; what does not fit is refused by file, line and field."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvae.case import Asset, Card, Case, Field, Lesion, Relevance
from mmvae.cohort import Cohort, cases_jsonl, plain_card, read_card
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
        (lambda c: c.append(c[0]), r"line 41: case_id '.*' is also on line 1"),
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
        (lambda c: c[0]["lesion"].update(mask="/etc/x"), r"line 1 lesion.mask leaves the cohort"),
        (lambda c: c[0].update(case_id="../../x"), r"case_id is '../../x', expected a name without '/'"),
        (lambda c: c[0].update(case_id=".."), r"case_id is '..', expected a name without '/'"),
        (lambda c: c[0].update(labels={"histology": [1]}), r"labels field 'histology' is \[1\]"),
        (lambda c: c[0].update(lesion={"point_mm": [1, 2, float("inf")]}), r"found Infinity"),
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
    with pytest.raises(InputError, match="is in both train and test of fold 0"):
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


# ---- any other content ------------------------------------------------------------------------------------------------

CASE = Case(
    "c1", "p1", (Asset("volume", "cases/c1/t2.nii.gz", "00", "t2", 0.9, None, {"EchoTime": 90}, ("f1",)),), {"age_years": 57},
    ("side: left",), Lesion((1.0, 2.0, 3.0), "cases/c1/mask.nii.gz"), (1.0, 2.0, 3.0), "lesion", {"histology": "fibroma"}, {"histology": "reader"},
)  # fmt: skip
CARD = Card(
    "a", "nifti", {"cases": 1}, {"age_years": Field("number", "years"), "menopause": Field("category", None, ("pre",))},
    ({"name": "side: left"},), ("histology",), reference=("t2",), relevance=(Relevance(2, ("histology",)),), deidentification=("x",),
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(plain, path=()):
    """Every place in a tree of objects and lists."""
    yield path
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def put(plain, path, value):
    """The tree with another value at a place."""
    if not path:
        return value
    changed = dict(plain) if isinstance(plain, dict) else list(plain)
    changed[path[0]] = put(plain[path[0]], path[1:], value)
    return changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


def load(folder, case, card):
    """None where the cohort is read, else the refusal."""
    (folder / "cases.jsonl").write_text(json.dumps(case) + "\n")
    (folder / "card.json").write_text(json.dumps(card))
    try:
        Cohort.load(folder)
    except InputError as error:
        return str(error)
    return None


def plain_of(case: Case, card: Card):
    return json.loads(cases_jsonl([case])), json.loads(json.dumps(plain_card(card)))


def test_a_full_case_and_card_are_read_as_they_were_written(folder):
    case, card = plain_of(CASE, CARD)
    assert load(folder, case, card) is None
    assert Cohort.load(folder).cases == (CASE,)
    assert read_card(card) == CARD


@given(st.data())
def test_whatever_stands_in_a_file_is_read_or_refused_in_one_line_that_names_the_file(folder, data):
    case, card = plain_of(CASE, CARD)
    value = data.draw(VALUES)
    if data.draw(st.booleans()):
        message, file = (
            load(folder, put(case, data.draw(st.sampled_from([*places(case)])), value), card),
            "cases.jsonl",
        )
    else:
        message, file = (
            load(folder, case, put(card, data.draw(st.sampled_from([*places(card)])), value)),
            "card.json",
        )
    if message is not None:
        assert "\n" not in message
        assert message.startswith((file, "the record field", "relevance"))
