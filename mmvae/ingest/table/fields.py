"""What each field of a MAP may hold, checked before any of it is used; and its templates, filled without evaluating them."""

import string
from collections.abc import Callable, Mapping
from reprlib import repr as short  # a file of a stranger may hold what fills the memory when it is printed
from typing import Any

# How a field's value is checked, and what to say was expected of it.
Check = tuple[Callable[[Any], bool], str]


def is_text(value: object) -> bool:
    """Whether a value is text that is not empty."""
    return isinstance(value, str) and value != ""


def is_texts(value: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_text_by_name(value: object) -> bool:
    """Whether a value is a text for each name."""
    return isinstance(value, dict) and all(is_text(k) and is_text(v) for k, v in value.items())


def is_template(value: object) -> bool:
    """Whether a value is text with columns in braces, and no format beside a column."""
    if not (isinstance(value, str) and value):
        return False
    try:
        parts = list(string.Formatter().parse(value))
    except ValueError:  # a brace without its other half
        return False
    return all(name is None or (name and not spec and not conversion) for _, name, spec, conversion in parts)


def columns_of(template: str) -> set[str]:
    """The columns that a template names.

    >>> sorted(columns_of("{Patient}/{Series}.nii.gz"))
    ['Patient', 'Series']
    """
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def filled(template: str, row: Mapping[str, str | None]) -> str:
    """The template with each column's cell in its place; a name in braces is a column's and nothing more.

    >>> filled("{Patient}/t2.nii.gz", {"Patient": " P1 "})
    'P1/t2.nii.gz'
    """
    parts = string.Formatter().parse(template)
    return "".join(literal + (row[name] or "").strip() if name else literal for literal, name, _, _ in parts)


def _is_record(value: object) -> bool:
    if value == "*":
        return True
    entries = value.values() if isinstance(value, dict) else [None]
    return all(
        is_text(entry)
        or (
            isinstance(entry, dict)
            and is_text(entry.get("column"))
            and isinstance(entry.get("unit", ""), str)
        )
        for entry in entries
    )


def _is_relevance(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(e, dict) and is_texts(e.get("same")) for e in value)


def _is_answers(value: object) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"kinds", "terms", "fields"}:
        return False
    lists = all(is_texts(value.get(name, [])) for name in ("kinds", "fields"))
    return lists and isinstance(value.get("terms", False), bool)


CHECKS: Mapping[str, Check] = {
    "key": (is_text, "the name of a column"),
    "case": (is_template, "text with columns in braces"),
    "patient": (is_template, "text with columns in braces"),
    "assets": (
        lambda value: isinstance(value, list) and all(isinstance(e, dict) for e in value),
        "a list of assets",
    ),
    "record": (_is_record, '{field: column} or "*"'),
    "labels": (is_text_by_name, "a column for each label"),
    "label_source": (is_text_by_name, "a source for each label"),
    "terms": (is_texts, "a list of columns"),
    "lesion": (is_text_by_name, "columns of x_mm, y_mm and z_mm"),
    "reference": (is_texts, "a list of kinds"),
    "relevance": (_is_relevance, "a list of a gain and the labels that must be the same"),
    "answers": (_is_answers, "lists of `kinds` and `fields`, and whether `terms` are answers"),
    "name": (is_text, "a word"),
}
ASSET_CHECKS: Mapping[str, Check] = {
    "kind": (is_text, "text"),
    "file": (is_template, "text with columns in braces"),
    "facts": (lambda value: isinstance(value, dict) and all(map(is_text, value)), "a value for each fact"),
}


def misfit(plain: Mapping[Any, Any], checks: Mapping[str, Check], place: str = "") -> str | None:
    """A sentence about the first field that holds what it may not; None where all fit.

    Args:
        plain: Values by field, as read from YAML; what is None counts as absent.
        checks: By field.
        place: Of the fields in the file.
    """
    for name, (fits, expected) in checks.items():
        if plain.get(name) is not None and not fits(plain[name]):
            return f"{place}{name} is {short(plain[name])}, expected {expected}"
    return None
