"""Turns the rows of a table into records, terms and labels of cases, and describes them in the cohort's card."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmvae.case import Answers, Card, Case, Field, Value
from mmvae.ingest.table.map import Map, value_of

Row = Mapping[str, str]


@dataclass(frozen=True)
class RecordColumn:
    """The column of a record field, and the field's type."""

    column: str
    field: Field


def record_columns(mapping: Map, rows: Sequence[Row]) -> dict[str, RecordColumn]:
    """Column and type of each record field; it is a category if any cell of the column is a word."""
    entries = dict(mapping.record or {})
    if mapping.every_other_column and rows:
        named = mapping.columns()
        entries = {
            name: {"column": name}
            for name in rows[0]
            if name and name not in named and not _holds_dates(row.get(name) for row in rows)
        }
    columns = {}
    for name, entry in entries.items():
        cells = (value_of(row.get(entry["column"])) for row in rows)
        values = [value for value in cells if value is not None]
        if entry.get("type") == "category" or any(isinstance(v, str) for v in values):
            field = Field("category", None, tuple(sorted({str(v) for v in values})))
        else:
            field = Field("number", entry.get("unit"))
        columns[name] = RecordColumn(entry["column"], field)
    return columns


_DATE = re.compile(
    r"(\d{4}[-./]?(0[1-9]|1[0-2])[-./]?(0[1-9]|[12]\d|3[01])|\d{1,2}[-./]\d{1,2}[-./]\d{2,4})([ T].*)?"
)


def _holds_dates(cells: Iterable[str | None]) -> bool:
    """Whether a column holds calendar dates, which may identify a person (PS3.15 E), so that `record: "*"` leaves them out."""
    filled = [cell.strip() for cell in cells if cell and cell.strip()]
    return bool(filled) and all(_DATE.fullmatch(cell) for cell in filled)


def with_row(case: Case, row: Row, mapping: Map, columns: Mapping[str, RecordColumn]) -> Case:
    """The case with the record, terms and labels of its row.

    Args:
        case: The case without them.
        row: Cells by column.
        mapping: The MAP, which says which columns hold labels and terms.
        columns: Columns of the record's fields.
    """
    record: dict[str, Value] = {}
    for name, entry in columns.items():
        value = value_of(row.get(entry.column))
        if value is not None:
            record[name] = str(value) if entry.field.type == "category" else value
    labels = {
        name: str(value)
        for name, column in mapping.labels.items()
        if (value := value_of(row.get(column))) is not None
    }
    source = {name: mapping.label_source.get(name, "reader") for name in labels}
    return replace(case, record=record, labels=labels, label_source=source, terms=_terms(row, mapping))


def _terms(row: Row, mapping: Map) -> tuple[str, ...] | None:
    """The terms that the row states, or None if it states none."""
    stated = [
        (column, part.strip()) for column in mapping.terms for part in (row.get(column) or "").split(";")
    ]
    terms = [
        part if ":" in part else f"{column}: {part}" for column, part in stated if value_of(part) is not None
    ]
    return tuple(terms) or None


def card_of(
    mapping: Map, cases: Sequence[Case], columns: Mapping[str, RecordColumn], source: str
) -> Card:  # fmt: skip
    """The cohort's card: fields, terms, targets, answers (by default every text kind and the terms) and relevance.

    Args:
        mapping: The MAP.
        cases: Cases of the cohort.
        columns: Columns of the record's fields.
        source: Type of the cohort's source: dicom, nifti or table.
    """
    terms = sorted({term for case in cases for term in case.terms or ()})
    texts = {asset.kind for case in cases for asset in case.assets if asset.type == "text" and asset.kind}
    answers = Answers(tuple(sorted(texts)), bool(terms))
    if mapping.answers is not None:
        plain = mapping.answers
        answers = Answers(
            tuple(plain.get("kinds", ())), bool(plain.get("terms", False)), tuple(plain.get("fields", ()))
        )
    kinds = [asset.kind for case in cases for asset in case.assets if asset.kind]
    return Card(
        name=mapping.name or "cohort",
        source=source,
        counts={
            "cases": len(cases),
            "patients": len({c.patient for c in cases}),
            "assets": {k: kinds.count(k) for k in sorted(set(kinds))},
        },
        fields={name: entry.field for name, entry in columns.items()},
        terms=tuple({"name": term, "parent": term.split(":")[0]} for term in terms),
        targets=tuple(mapping.labels),
        answers=answers,
        reference=mapping.reference,
        relevance=mapping.relevance,
        assumed={
            rule.kind: {"spacing_mm": list(rule.spacing_mm), "axes": "column left, row back, slice up"}
            for rule in mapping.assets
            if rule.assumed and rule.spacing_mm
        },
    )
