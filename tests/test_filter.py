"""Filters: three-valued logic as SQLite has it, parsed and never evaluated."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvae.errors import InputError
from mmvae.retrieval.filter import parse_where

NUMBERS = st.none() | st.integers(0, 5)
WORDS = st.none() | st.sampled_from(["pre", "post", ""])
RECORDS = st.fixed_dictionaries({"age": NUMBERS, "size": NUMBERS, "menopause": WORDS})
OPERATORS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
COMPARISONS = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(["age", "size"]), OPERATORS, st.integers(-1, 6)),
    st.builds("age {} size".format, OPERATORS),
    st.builds("menopause {} '{}'".format, OPERATORS, st.sampled_from(["pre", "post"])),
)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds("(not {})".format, inner),
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
    ),
    max_leaves=8,
)


@given(CONDITIONS, RECORDS)
def test_a_condition_holds_where_sqlite_says_so(condition, record):
    """SQLite has the same words, precedence and three values; what is unknown is left out by both."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE record (age INTEGER, size INTEGER, menopause TEXT)")
    db.execute("INSERT INTO record VALUES (:age, :size, :menopause)", record)
    wanted = db.execute(f"SELECT count(*) FROM record WHERE {condition}").fetchone()[0] == 1
    db.close()
    known = {name: value for name, value in record.items() if value is not None}
    assert parse_where(condition)(known) is wanted


@pytest.mark.parametrize(
    "text", ["menopause != 'pre'", "not menopause == 'pre'", "not (menopause == 'pre' and age > 3)"]
)
def test_what_is_missing_is_unknown_and_so_is_its_denial(text):
    condition = parse_where(text)
    assert condition({"age": 4, "menopause": "post"})
    assert not condition({"age": 4})
    assert not condition({"age": 4, "menopause": "pre"})


def test_what_is_decided_without_the_missing_field_is_decided():
    assert parse_where("age > 3 or menopause == 'pre'")({"age": 4})
    assert parse_where("not (age > 3 and menopause == 'pre')")({"age": 2})


def test_a_chain_is_a_conjunction():
    condition = parse_where("20 < age <= 50")
    assert [condition({"age": age}) for age in (20, 21, 50, 51)] == [False, True, True, False]
    assert parse_where("age > -3")({"age": -2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os')", "found Call"),
        ("age_years >", "not understood"),
        ("height > 3", "no record field 'height'"),
        ("age_years + 1 > 3", "expected comparisons"),
        ("age_years > True", "expected a field, a number or a quoted word"),
        ("age_years > None", "expected a field, a number or a quoted word"),
        ("age_years > (lambda: 3)", "expected comparisons"),
        ("age_years.real > 3", "expected comparisons"),
        ("age_years in [3]", "expected comparisons"),
        ("(" * 300 + "age_years > 3" + ")" * 300, "not understood|cannot be parsed"),
        ("not " * 5000 + "age_years > 3", "not understood|cannot be parsed"),
        ("age_years > 3\0", "not understood|cannot be parsed"),
    ],
)
def test_a_filter_is_parsed_and_never_evaluated(text, message):
    with pytest.raises(InputError, match=message) as refused:
        parse_where(text, {"age_years": {}})
    assert refused.value.field == "where"


def test_a_word_is_not_compared_with_a_number():
    with pytest.raises(InputError, match="quote words, leave numbers bare"):
        parse_where("age_years > 'old'")({"age_years": 3})
