"""A MAP file: which columns and files of a table-led source are what (FORMATS: "Small tables")."""

import csv
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mmvae.case import LABEL_SOURCES, Relevance
from mmvae.cohort import read_relevance
from mmvae.errors import InputError

_MISSING = {"", "na", "n/a", "nan", "#div/0!", "inf", "-inf", "+inf", "infinity", "-infinity", "null", "none"}
_FIELDS = (
    "key",
    "case",
    "patient",
    "assets",
    "record",
    "labels",
    "label_source",
    "terms",
    "lesion",
    "reference",
    "relevance",
    "answers",
    "name",
    "group",
)


@dataclass(frozen=True)
class AssetRule:
    """One asset a case may have: its kind, a file template, and what the file does not say."""

    kind: str
    file: str
    spacing_mm: tuple[float, float, float] | None
    assumed: bool
    facts: Mapping
    signal: bool = False


@dataclass(frozen=True)
class Map:
    """A MAP file as read; see FORMATS.md for its fields."""

    key: str
    case: str = ""
    patient: str = ""
    assets: tuple[AssetRule, ...] = ()
    record: Mapping[str, Mapping] | None = None
    every_other_column: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(default_factory=dict)
    terms: tuple[str, ...] = ()
    lesion: Mapping[str, str] | None = None
    reference: tuple[str, ...] = ()
    relevance: tuple[Relevance, ...] = ()
    answers: Mapping | None = None
    name: str | None = None
    led_by_table: bool = False

    def columns(self) -> set[str]:
        """Every column that the MAP names."""
        templates = [self.case, self.patient, *(rule.file for rule in self.assets)]
        named = {name for t in templates for _, name, _, _ in string.Formatter().parse(t) if name}
        named |= {self.key, *self.labels.values(), *self.terms, *(self.lesion or {}).values()}
        return named | {entry["column"] for entry in (self.record or {}).values()}


def read_map(path: Path) -> Map:
    """The MAP at a path.

    Raises:
        InputError: naming the field, what was found and what was expected.
    """
    try:
        plain = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"--map {path.name}: not readable YAML ({type(error).__name__})") from error
    if not isinstance(plain, dict):
        raise InputError(
            f"--map {path.name}: expected fields such as key, case, assets; found {type(plain).__name__}"
        )
    unknown = sorted(set(plain) - set(_FIELDS))
    if unknown:
        raise InputError(
            f"--map {path.name}: unknown field {unknown[0]!r}; expected some of {', '.join(_FIELDS)}"
        )
    if "key" not in plain:
        raise InputError(f"--map {path.name}: the field 'key' is missing")
    rules = []
    for number, asset in enumerate(plain.get("assets") or ()):
        for name in ("kind", "file"):
            if not isinstance(asset.get(name), str):
                raise InputError(
                    f"--map {path.name}: assets[{number}].{name} is {asset.get(name)!r}, expected text"
                )
        spacing = asset.get("spacing_mm")
        if spacing is not None and not (
            len(spacing) == 3 and all(isinstance(s, int | float) and s > 0 for s in spacing)
        ):
            raise InputError(
                f"--map {path.name}: assets[{number}].spacing_mm is {spacing!r}, expected three positive numbers (column, row, slice)"
            )
        if asset.get("type") not in (None, "signal"):
            raise InputError(
                f"--map {path.name}: assets[{number}].type is {asset['type']!r}; only `signal` is stated, other types follow from the file"
            )
        rules.append(
            AssetRule(
                asset["kind"],
                asset["file"],
                tuple(map(float, spacing)) if spacing else None,
                bool(asset.get("assumed")),
                asset.get("facts", {}),
                asset.get("type") == "signal",
            )
        )
    record = plain.get("record")
    fields = None
    if isinstance(record, dict):
        fields = {
            name: entry if isinstance(entry, dict) else {"column": entry} for name, entry in record.items()
        }
    elif record not in (None, "*"):
        raise InputError(f'--map {path.name}: record is {record!r}, expected {{field: column}} or "*"')
    for label, source in plain.get("label_source", {}).items():
        if source not in LABEL_SOURCES:
            raise InputError(
                f"--map {path.name}: label_source.{label} is {source!r}, expected one of {', '.join(LABEL_SOURCES)}"
            )
    for level in plain.get("relevance", ()):
        for name in level.get("same", ["?"]):
            if name not in plain.get("labels", {}):
                raise InputError(
                    f"--map {path.name}: relevance names {name!r}, which is none of the labels {sorted(plain.get('labels', {}))}"
                )
    case = plain.get("case", "{" + plain["key"] + "}")
    return Map(
        plain["key"], case, plain.get("patient", case), tuple(rules), fields, record == "*", plain.get("labels", {}),
        plain.get("label_source", {}), tuple(plain.get("terms", ())), plain.get("lesion"), tuple(plain.get("reference", ())),
        read_relevance(plain.get("relevance", ())), plain.get("answers"), plain.get("name"),
        bool(rules) or "case" in plain or "patient" in plain,
    )  # fmt: skip


def read_table(path: Path, needed: set[str]) -> list[dict[str, str]]:
    """Rows of a CSV (or TSV) file with a header.

    Raises:
        InputError: naming a column that the MAP needs and the table lacks.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--records {path.name}: not readable UTF-8 text ({type(error).__name__})"
        ) from error
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))
    if not rows:
        raise InputError(f"--records {path.name}: holds no row below its header")
    lacking = sorted(needed - set(rows[0]))
    if lacking:
        raise InputError(
            f"--records {path.name}: has no column {lacking[0]!r}, which the MAP names; it has {sorted(c for c in rows[0] if c)}"
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
