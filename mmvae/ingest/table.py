"""A table's row → a case's record, terms and labels, and the card that says what they are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mmvae.case import Answers, Card, Case, Field
from mmvae.ingest.mapping import Map, value_of


def field_types(mapping: Map, table) -> dict[str, dict]:
    """Column, type and values or unit of each record field."""
    fields = dict(mapping.record or {})
    if mapping.every_other_column:
        taken = mapping.columns()
        fields = {
            name: {"column": name}
            for name in table[0]
            if name and name not in taken and not _holds_dates(row.get(name) for row in table)
        }
    made = {}
    for name, entry in fields.items():
        values = [v for v in (value_of(row.get(entry["column"])) for row in table) if v is not None]
        category = entry.get("type") == "category" or any(isinstance(v, str) for v in values)
        kind = (
            {"type": "category", "values": sorted({str(v) for v in values})}
            if category
            else {"type": "number", "unit": entry.get("unit")}
        )
        made[name] = {**kind, "column": entry["column"]}
    return made


_DATE = re.compile(
    r"(\d{4}[-./]?(0[1-9]|1[0-2])[-./]?(0[1-9]|[12]\d|3[01])|\d{1,2}[-./]\d{1,2}[-./]\d{2,4})([ T].*)?"
)


def _holds_dates(cells: Iterable[str | None]) -> bool:
    """Whether a column is of calendar dates: those point at a person (PS3.15 E), so `record: "*"` leaves them out."""
    written = [cell.strip() for cell in cells if cell and cell.strip()]
    return bool(written) and all(_DATE.fullmatch(cell) for cell in written)


def with_words(case: Case, cells: Mapping[str, str], mapping: Map, types: Mapping[str, Mapping]) -> Case:
    record = {}
    for name, entry in types.items():
        value = value_of(cells.get(entry["column"]))
        if value is not None:
            record[name] = str(value) if entry["type"] == "category" else value
    labels = {
        name: str(value)
        for name, column in mapping.labels.items()
        if (value := value_of(cells.get(column))) is not None
    }
    terms = None
    if mapping.terms:
        stated = [
            (column, part.strip())
            for column in mapping.terms
            for part in (cells.get(column) or "").split(";")
        ]
        listed = [
            part if ":" in part else f"{column}: {part}"
            for column, part in stated
            if value_of(part) is not None
        ]
        terms = tuple(listed) if listed else None
    source = {name: mapping.label_source.get(name, "reader") for name in labels}
    return replace(case, record=record, labels=labels, label_source=source, terms=terms)


def words_card(mapping: Map, cases: Sequence[Case], types: Mapping[str, Mapping], source: str) -> Card:
    """The cohort's card: its fields, terms, targets, answers (every text kind and the terms unless the MAP says) and relevance."""
    listed = sorted({term for case in cases for term in case.terms or ()})
    texts = tuple(sorted({a.kind for case in cases for a in case.assets if a.type == "text" and a.kind}))
    given = mapping.answers
    answers = Answers(texts, bool(listed)) if given is None else Answers(
        tuple(given.get("kinds", ())), bool(given.get("terms", False)), tuple(given.get("fields", ()))
    )  # fmt: skip
    kinds = [asset.kind for case in cases for asset in case.assets if asset.kind]
    return Card(
        name=mapping.name or "cohort",
        source=source,
        counts={
            "cases": len(cases),
            "patients": len({c.patient for c in cases}),
            "assets": {k: kinds.count(k) for k in sorted(set(kinds))},
        },
        fields={
            name: Field(e["type"], e.get("unit"), tuple(e.get("values", ()))) for name, e in types.items()
        },
        terms=tuple({"name": term, "parent": term.split(":")[0]} for term in listed),
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
