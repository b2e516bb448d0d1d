"""The cohort folder: card, cases and splits as they are read and written (FORMATS: "A cohort folder")."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmvae.case import ASSET_TYPES, Answers, Asset, Card, Case, Field, Lesion, PointMM, Relevance
from mmvae.errors import InputError
from mmvae.splits import Splits


@dataclass(frozen=True)
class Cohort:
    """A cohort folder as read: card, cases in the order of `cases.jsonl`, and splits (None where there are none)."""

    root: Path
    card: Card
    cases: tuple[Case, ...]
    splits: Splits | None = None

    @classmethod
    def load(cls, root: str | Path) -> "Cohort":
        """Reads a cohort folder.

        Raises:
            InputError: naming the file, the line and the field that does not fit.
        """
        root = Path(root)
        for name in ("card.json", "cases.jsonl"):
            if not (root / name).is_file():
                raise InputError(
                    f"{root} is not a cohort: it has no {name}. Make one with `mmvae scan` or `mmvae phantom`."
                )
        card = read_card(_json((root / "card.json").read_text(), "card.json"))
        cases = _cases((root / "cases.jsonl").read_text().splitlines())
        if not cases:
            raise InputError(
                f"{root / 'cases.jsonl'} holds no case; expected one per line. Scan the source again."
            )
        splits = None
        if (root / "splits.json").is_file():
            splits = Splits.read(_json((root / "splits.json").read_text(), "splits.json"))
            splits.refuse_foreign_cohort(cases)
        return cls(root, card, cases, splits)

    def split(self, name: str, fold: int | None = None) -> tuple[Case, ...]:
        """The cases of `train`, `validation` or `test`."""
        if self.splits is None:
            raise InputError(
                f"{self.root} has no splits.json; scan its source again with splits, or embed it whole"
            )
        patients = set(self.splits.fold(fold).part(name))
        return tuple(case for case in self.cases if case.patient in patients)

    def case(self, case_id: str) -> Case:
        """The case with this id."""
        for case in self.cases:
            if case.case_id == case_id:
                return case
        raise InputError(
            f"the cohort has no case {case_id!r}; it holds {len(self.cases)}, e.g. {self.cases[0].case_id}",
            "case",
        )

    @property
    def sha256(self) -> str:
        """Hash of what the cases are: their ids, assets, records, terms, labels."""
        lines = "\n".join(sorted(json.dumps(plain_case(case), sort_keys=True) for case in self.cases))
        return hashlib.sha256(lines.encode()).hexdigest()


def plain_case(case: Case) -> dict[str, Any]:
    """The case as one line of `cases.jsonl`."""
    plain = asdict(case)
    for asset in plain["assets"]:
        asset["files"] = dict(asset["files"]) if isinstance(asset["files"], dict) else list(asset["files"])
    return plain


def cases_jsonl(cases: Iterable[Case]) -> str:
    """The text of cases.jsonl: one case per line."""
    lines = (json.dumps(plain_case(case), allow_nan=False, ensure_ascii=False) + "\n" for case in cases)
    return "".join(lines)


def plain_card(card: Card) -> dict[str, Any]:
    """The card as written to `card.json`."""
    return {**asdict(card), "fields": {name: field.plain() for name, field in card.fields.items()}}


def write_cohort(root: Path, card: Card, cases: Sequence[Case], splits: Splits | None) -> None:
    """Writes card, cases and splits into a folder that already holds `cases/`."""
    (root / "cases.jsonl").write_text(cases_jsonl(cases))
    text = json.dumps(plain_card(card), allow_nan=False, indent=1, ensure_ascii=False)
    (root / "card.json").write_text(text + "\n")
    if splits is not None:
        (root / "splits.json").write_text(json.dumps(splits.plain(), indent=1) + "\n")


def read_card(plain: Mapping[str, Any]) -> Card:
    """The card that `plain_card` gave.

    Raises:
        InputError: naming the field that does not fit.
    """
    known = _known(Card, plain)
    for name in ("name", "source"):
        if name not in known:
            raise InputError(f"card.json: the field {name!r} is missing")
    answers = known.get("answers", {})
    known["answers"] = Answers(
        tuple(answers.get("kinds", ())), bool(answers.get("terms", False)), tuple(answers.get("fields", ()))
    )
    known["fields"] = {name: read_field(name, field) for name, field in known.get("fields", {}).items()}
    known["relevance"] = read_relevance(known.get("relevance", ()))
    for name in ("terms", "targets", "reference", "deidentification"):
        known[name] = tuple(known.get(name, ()))
    return Card(**known)


def read_field(name: str, plain: Any) -> Field:
    """A record field as `Field.plain` gave it."""
    if not isinstance(plain, Mapping) or plain.get("type") not in ("number", "category"):
        raise InputError(f"the record field {name!r} is {plain!r}; expected its type, number or category")
    if plain["type"] == "number":
        return Field("number", plain.get("unit"))
    return Field("category", None, tuple(map(str, plain.get("values", ()))))


def read_relevance(plain: Iterable[Any]) -> tuple[Relevance, ...]:
    """Graded relevance as a card or a MAP holds it: `[{gain: 2, same: [histology]}, …]`, the first match counts."""
    levels = []
    for level in plain:
        gain, same = (level.get("gain"), level.get("same")) if isinstance(level, Mapping) else (None, None)
        if not isinstance(gain, int | float) or not isinstance(same, list | tuple) or not same:
            raise InputError(
                f"relevance holds {level!r}; expected a gain and the labels that must be the same"
            )
        levels.append(Relevance(gain, tuple(map(str, same))))
    return tuple(levels)


def _cases(lines: Iterable[str]) -> tuple[Case, ...]:
    cases: list[Case] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        place = f"cases.jsonl line {number}"
        case = _case(_json(line, place), place)
        if case.case_id in line_of:
            raise InputError(
                f"{place}: case_id {case.case_id!r} stands on line {line_of[case.case_id]} too; a case is one line. Remove one of the two."
            )
        line_of[case.case_id] = number
        cases.append(case)
    return tuple(cases)


def _json(text: str, place: str) -> dict[str, Any]:
    def refuse(constant):
        raise InputError(f"{place}: found {constant}; a missing value is absent or null. Remove the field.")

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); expected one object"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{place}: found a {type(value).__name__}, expected an object")
    return value


def _known(cls: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in plain.items() if name in names and value is not None}


def _point(value: Any, place: str) -> PointMM:
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value)):
        raise InputError(f"{place}: found {value!r}, expected three numbers in mm (LPS)")
    x, y, z = map(float, value)
    return x, y, z


def _asset(plain: Mapping[str, Any], place: str) -> Asset:
    missing = [name for name in ("type", "uri", "sha256") if name not in plain]
    if missing:
        raise InputError(f"{place} lacks {missing[0]!r}")
    if plain["type"] not in ASSET_TYPES:
        raise InputError(f"{place} has type {plain['type']!r}, expected one of {', '.join(ASSET_TYPES)}")
    if Path(plain["uri"]).is_absolute() or ".." in Path(plain["uri"]).parts:
        raise InputError(f"{place} has a uri that leaves the cohort; expected one relative to it")
    known = _known(Asset, plain)
    if isinstance(known.get("files"), list):
        known["files"] = tuple(known["files"])
    return Asset(**known)


def _case(plain: Mapping[str, Any], place: str) -> Case:
    known = _known(Case, plain)
    for name in ("case_id", "patient"):
        if not isinstance(known.get(name), str):
            raise InputError(f"{place}: the field {name!r} is {known.get(name)!r}, expected a string")
    assets = enumerate(known.get("assets", ()))
    known["assets"] = tuple(_asset(asset, f"{place}: asset {number}") for number, asset in assets)
    record = {name: value for name, value in known.get("record", {}).items() if value is not None}
    for name, value in record.items():
        if not isinstance(value, int | float | str) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise InputError(
                f"{place}: record field {name!r} is {value!r}, expected a finite number or a string"
            )
    known["record"] = record
    known["labels"] = {k: v for k, v in known.get("labels", {}).items() if v is not None}
    if "terms" in known:
        known["terms"] = tuple(known["terms"])
    if "lesion" in known:
        point = _point(known["lesion"].get("point_mm"), f"{place} lesion.point_mm")
        known["lesion"] = Lesion(point, known["lesion"].get("mask"))
    if "frame_mm" in known:
        known["frame_mm"] = _point(known["frame_mm"], f"{place} frame_mm")
    return Case(**known)
