"""Reads a MAP file, which says what the columns and files of a source are, and the tables beside it (FORMATS: "Small tables")."""

import csv
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmvae.case import LABEL_SOURCES, Relevance
from mmvae.cohort import read_relevance
from mmvae.errors import InputError
from mmvae.ingest.table.fields import ASSET_CHECKS, CHECKS, columns_of, misfit, short

_MISSING = {"", "na", "n/a", "nan", "#div/0!", "inf", "-inf", "+inf", "infinity", "-infinity", "null", "none"}


@dataclass(frozen=True)
class AssetRule:
    """One asset that a case may have.

    Args:
        kind: Kind of the asset.
        file: Template of its path below the source, with columns in braces; for an .npz followed by `#` and the array's name.
        spacing_mm: Spacing of columns, rows and slices, if the file does not state it.
        assumed: Whether the spacing is an assumption.
        facts: Facts that the file does not state.
        signal: Whether it is an array of samples rather than a picture.
    """

    kind: str
    file: str
    spacing_mm: tuple[float, float, float] | None
    assumed: bool
    facts: Mapping[str, Any]
    signal: bool = False


@dataclass(frozen=True)
class Map:
    """A MAP file as read; see FORMATS.md for its fields."""

    key: str
    case: str = ""
    patient: str = ""
    assets: tuple[AssetRule, ...] = ()
    record: Mapping[str, Mapping[str, Any]] | None = None
    every_other_column: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(default_factory=dict)
    terms: tuple[str, ...] = ()
    lesion: Mapping[str, str] | None = None
    reference: tuple[str, ...] = ()
    relevance: tuple[Relevance, ...] = ()
    answers: Mapping[str, Any] | None = None
    name: str | None = None
    led_by_table: bool = False

    def columns(self) -> set[str]:
        """Every column that the MAP names."""
        templates = [self.case, self.patient, *(rule.file for rule in self.assets)]
        named = {name for template in templates for name in columns_of(template)}
        named |= {self.key, *self.labels.values(), *self.terms, *(self.lesion or {}).values()}
        return named | {entry["column"] for entry in (self.record or {}).values()}


def read_map(path: Path) -> Map:
    """The MAP in a file.

    Raises:
        InputError: naming the field, what was found and what was expected.
    """
    try:
        plain = yaml.safe_load(path.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _refusal(path, f"not readable YAML ({type(error).__name__})") from error
    if not isinstance(plain, dict):
        raise _refusal(path, f"expected fields such as key, case, assets; found {type(plain).__name__}")
    unknown = sorted(short(name) for name in plain if name not in CHECKS)
    if unknown:
        raise _refusal(path, f"unknown field {unknown[0]}; expected some of {', '.join(CHECKS)}")
    plain = {name: value for name, value in plain.items() if value is not None}
    if "key" not in plain:
        raise _refusal(path, "the field 'key' is missing")
    reason = misfit(plain, CHECKS)
    if reason is not None:
        raise _refusal(path, reason)
    record = plain.get("record")
    labels, label_source = plain.get("labels", {}), plain.get("label_source", {})
    _refuse_unknown_labels(path, labels, label_source, plain.get("relevance", ()))
    case = plain.get("case", "{" + plain["key"] + "}")
    rules = tuple(_rule(path, number, asset) for number, asset in enumerate(plain.get("assets") or ()))
    fields = None
    if isinstance(record, dict):
        fields = {
            name: entry if isinstance(entry, dict) else {"column": entry} for name, entry in record.items()
        }
    return Map(
        key=plain["key"],
        case=case,
        patient=plain.get("patient", case),
        assets=rules,
        record=fields,
        every_other_column=record == "*",
        labels=labels,
        label_source=label_source,
        terms=tuple(plain.get("terms", ())),
        lesion=plain.get("lesion"),
        reference=tuple(plain.get("reference", ())),
        relevance=read_relevance(plain.get("relevance", ())),
        answers=plain.get("answers"),
        name=plain.get("name"),
        led_by_table=bool(rules) or "case" in plain or "patient" in plain,
    )


def _refusal(path: Path, reason: str) -> InputError:
    return InputError(f"{path.name}: {reason}", "map")


def _rule(path: Path, number: int, plain: Mapping[str, Any]) -> AssetRule:
    """One entry of `assets`."""
    place = f"assets[{number}]"
    for name in ("kind", "file"):
        if plain.get(name) is None:
            raise _refusal(path, f"{place}.{name} is None, expected text")
    reason = misfit(plain, ASSET_CHECKS, f"{place}.")
    if reason is not None:
        raise _refusal(path, reason)
    if plain.get("type") not in (None, "signal"):
        raise _refusal(
            path,
            f"{place}.type is {short(plain['type'])}; only `signal` may be stated, other types follow from the file",
        )
    signal = plain.get("type") == "signal"
    spacing = _spacing(path, f"{place}.spacing_mm", plain.get("spacing_mm"))
    return AssetRule(
        plain["kind"], plain["file"], spacing, bool(plain.get("assumed")), plain.get("facts") or {}, signal
    )


def _spacing(path: Path, place: str, value: Any) -> tuple[float, float, float] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 3 or not all(isinstance(s, int | float) and s > 0 for s in numbers):
        raise _refusal(
            path, f"{place} is {short(value)}, expected three positive numbers (column, row, slice)"
        )
    x, y, z = map(float, numbers)
    return x, y, z


def _refuse_unknown_labels(
    path: Path, labels: Mapping[str, str], sources: Mapping[str, str], relevance: Any
) -> None:  # fmt: skip
    """Raises an InputError for an unknown label source, or relevance that names something other than a label."""
    for label, source in sources.items():
        if source not in LABEL_SOURCES:
            raise _refusal(
                path, f"label_source.{label} is {source!r}, expected one of {', '.join(LABEL_SOURCES)}"
            )
    for level in relevance:
        for name in level["same"]:
            if name not in labels:
                raise _refusal(
                    path, f"relevance names {name!r}, which is not one of the labels {sorted(labels)}"
                )


def read_table(path: Path, needed: Set[str], field: str) -> list[dict[str, str]]:
    """Rows of a CSV (or TSV) file with a header.

    Args:
        path: Path of the file.
        needed: Columns that it must have.
        field: The argument that named the file: `records` or `lesions`.

    Raises:
        InputError: naming a needed column that the table lacks.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not readable UTF-8 text ({type(error).__name__})", field) from error
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))
    if not rows:
        raise InputError(f"{path.name}: holds no row below its header", field)
    lacking = sorted(needed - set(rows[0]))
    if lacking:
        raise InputError(
            f"{path.name}: has no column {lacking[0]!r}, which is needed; it has {sorted(c for c in rows[0] if c)}",
            field,
        )
    return rows


def value_of(cell: str | None) -> float | int | str | None:
    """A cell as a number or text; empty, infinite, NaN and #DIV/0! are missing."""
    text = (cell or "").strip()
    if text.lower() in _MISSING:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return None
    return int(number) if number == int(number) and "." not in text and "e" not in text.lower() else number
