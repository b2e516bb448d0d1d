"""Splits by patient, for any patients, sizes, folds and seed: nobody in two lists, the sizes that were asked for, the same draw again."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvae.case import Case
from mmvae.errors import InputError
from mmvae.splits import Split, Splits, draw_splits

patients = st.lists(st.text(min_size=1), max_size=40)
seeds = st.integers(0, 2**32)


def lists(split: Split) -> list[str]:
    return [*split.train, *split.validation, *split.test]


@st.composite
def asked(draw):
    """Patients (some twice) and three sizes that they are enough for."""
    names = draw(patients)
    cuts = sorted(draw(st.lists(st.integers(0, len(set(names))), min_size=3, max_size=3)))
    return names, (cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1])


@given(asked(), seeds)
def test_sizes_are_as_asked_and_nobody_stands_twice(case, seed):
    names, sizes = case
    split = draw_splits(names, sizes, seed=seed).fold(None)
    assert (len(split.train), len(split.validation), len(split.test)) == sizes
    assert len(lists(split)) == len(set(lists(split)))
    assert set(lists(split)) <= set(names)


@given(patients, seeds)
def test_without_sizes_everybody_is_in_one_list_of_about_60_15_and_25_percent(names, seed):
    split = draw_splits(names, seed=seed).fold(None)
    count = len(set(names))
    assert sorted(lists(split)) == sorted(set(names))
    for part, share in ((split.train, 0.6), (split.validation, 0.15), (split.test, 0.25)):
        assert abs(len(part) - share * count) <= 1


@given(st.lists(st.text(min_size=1), min_size=3, max_size=40, unique=True), st.data(), seeds)
def test_folds_partition_the_patients_in_each_of_their_roles(names, data, seed):
    count = data.draw(st.integers(3, len(names)))
    folds = draw_splits(names, folds=count, seed=seed).folds
    assert len(folds) == count
    for part in ("validation", "test"):
        assert sorted(p for fold in folds for p in fold.part(part)) == sorted(names)
    for fold in folds:
        assert sorted(lists(fold)) == sorted(names)
        assert max(len(f.test) for f in folds) - len(fold.test) <= 1


@given(asked(), seeds, st.data())
def test_the_same_seed_draws_the_same_whatever_is_repeated_later(case, seed, data):
    """Several cases of a patient are one name several times; only the order of first mention counts."""
    names, sizes = case
    once = list(dict.fromkeys(names))
    again = once + data.draw(st.lists(st.sampled_from(once), max_size=20) if once else st.just([]))
    assert draw_splits(names, sizes, seed=seed) == draw_splits(once, sizes, seed=seed)
    assert draw_splits(again, sizes, seed=seed) == draw_splits(once, sizes, seed=seed)
    random.seed(seed + 1)  # nor the state of anybody's generator
    assert draw_splits(names, sizes, seed=seed) == draw_splits(once, sizes, seed=seed)


def test_another_seed_is_another_draw():
    names = [f"p{n}" for n in range(30)]
    assert len({draw_splits(names, seed=seed).sha256 for seed in range(20)}) == 20


@given(asked(), seeds, st.booleans())
def test_what_is_written_is_read(case, seed, as_folds):
    names, sizes = case
    if as_folds and len(set(names)) < 3:
        return
    splits = draw_splits(names, None if as_folds else sizes, 3 if as_folds else None, seed)
    read = Splits.read(json.loads(json.dumps(splits.plain())))
    assert read == splits
    assert read.sha256 == splits.sha256


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["train", "validation", "test", "folds", "seed"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["train", "validation", "test", "folds", "seed", "group"]), json_values)
)
def test_any_other_json_is_refused_in_one_line_and_never_half_read(plain):
    try:
        splits = Splits.read(plain)
    except InputError as error:
        message = str(error)
    else:
        assert Splits.read(splits.plain()) == splits
        return
    assert message.startswith("splits.json")
    assert "\n" not in message


@given(
    st.lists(st.sampled_from("abc"), max_size=3),
    st.lists(st.sampled_from("abc"), max_size=3),
    st.lists(st.sampled_from("abc"), max_size=3),
)
def test_a_patient_in_two_lists_is_refused_and_only_then(train, validation, test):
    straddles = set(train) & set(validation) or set(train) & set(test) or set(validation) & set(test)
    if straddles:
        with pytest.raises(InputError, match="is in both"):
            Splits((Split(tuple(train), tuple(validation), tuple(test)),))
    else:
        Splits((Split(tuple(train), tuple(validation), tuple(test)),))


@given(asked(), st.integers(-3, 60), st.integers(-3, 60), st.integers(-3, 60))
def test_sizes_that_the_patients_are_not_enough_for_are_refused(case, a, b, c):
    names, _ = case
    fits = min(a, b, c) >= 0 and a + b + c <= len(set(names))
    if fits:
        assert len(lists(draw_splits(names, (a, b, c)).fold(None))) == a + b + c
    else:
        with pytest.raises(InputError, match="expected three numbers with a sum of at most"):
            draw_splits(names, (a, b, c))


@pytest.mark.parametrize("count", [-1, 0, 1, 2, 6])
def test_too_few_and_too_many_folds_are_refused(count):
    with pytest.raises(
        InputError, match=r"folds are .*; expected 3…5, the number of patients found"
    ) as refused:
        draw_splits(list("abcde"), folds=count)
    assert refused.value.field == "folds"


@given(
    st.sets(st.text(min_size=1), min_size=1, max_size=8), st.sets(st.text(min_size=1), min_size=1, max_size=8)
)
def test_splits_are_of_another_cohort_exactly_where_they_name_none_of_its_patients(here, there):
    splits = Splits((Split(tuple(there), (), ()),))
    cases = [Case(f"c{n}", patient) for n, patient in enumerate(here)]
    if here & there:
        splits.refuse_foreign_cohort(cases)
    else:
        with pytest.raises(InputError, match="belongs to another cohort"):
            splits.refuse_foreign_cohort(cases)


@pytest.mark.parametrize("number", [-1, 3, 99])
def test_a_fold_that_there_is_not_is_refused(number):
    with pytest.raises(InputError, match=rf"data.fold is {number}; splits.json holds folds 0…2"):
        draw_splits(list("abc"), folds=3).fold(number)
