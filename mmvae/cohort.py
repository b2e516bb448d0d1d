"""Reading and writing the cohort folder: card, cases and splits (FORMATS: "A cohort folder")."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mmvae.case import ASSET_TYPES, Answers, Asset, Card, Case, Field, Lesion, PointMM, Relevance, Value
from mmvae.errors import InputError
from mmvae.splits import Splits


@dataclass(frozen=True)
class Cohort:
    """A cohort folder in memory: card, cases in the order of `cases.jsonl`, and splits (None if there are none).

    >>> import tempfile
    >>> case = Case("c1", "p1", record={"age_years": 57})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_cohort(Path(folder), Card("one woman", "table"), [case], None)
    ...     cohort = Cohort.load(folder)
    >>> cohort.card.name, cohort.case("c1").record["age_years"]
    ('one woman', 57)
    """

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
        """The case with this id.

        Raises:
            InputError: if the cohort has none.
        """
        for case in self.cases:
            if case.case_id == case_id:
                return case
        raise InputError(
            f"the cohort has no case {case_id!r}; it holds {len(self.cases)}, e.g. {self.cases[0].case_id}",
            "case",
        )

    @property
    def sha256(self) -> str:
        """Hash of the cases' content: ids, assets, records, terms, labels."""
        lines = "\n".join(sorted(json.dumps(plain_case(case), sort_keys=True) for case in self.cases))
        return hashlib.sha256(lines.encode()).hexdigest()


def plain_case(case: Case) -> dict[str, Any]:
    """The case as one line of `cases.jsonl`."""
    plain = asdict(case)
    for asset in plain["assets"]:
        asset["files"] = dict(asset["files"]) if isinstance(asset["files"], dict) else list(asset["files"])
    return plain


def cases_jsonl(cases: Iterable[Case]) -> str:
    """The text of cases.jsonl: one case per line.

    >>> print(cases_jsonl([Case("c1", "p1", record={"age_years": 57})])[:44])
    {"case_id": "c1", "patient": "p1", "assets":
    """
    lines = (json.dumps(plain_case(case), allow_nan=False, ensure_ascii=False) + "\n" for case in cases)
    return "".join(lines)


def plain_card(card: Card) -> dict[str, Any]:
    """The card as written to `card.json`."""
    return {**asdict(card), "fields": {name: field.plain() for name, field in card.fields.items()}}


def write_cohort(root: Path, card: Card, cases: Sequence[Case], splits: Splits | None) -> None:
    """Writes card, cases and splits into a folder that already holds `cases/`.

    Args:
        root: The cohort's folder.
        card: What the cohort is.
        cases: One line of `cases.jsonl` each, in this order.
        splits: None writes no `splits.json`.
    """
    (root / "cases.jsonl").write_text(cases_jsonl(cases))
    text = json.dumps(plain_card(card), allow_nan=False, indent=1, ensure_ascii=False)
    (root / "card.json").write_text(text + "\n")
    if splits is not None:
        (root / "splits.json").write_text(json.dumps(splits.plain(), indent=1) + "\n")


def read_card(plain: Mapping[str, Any]) -> Card:
    """The card from the output of `plain_card`.

    Raises:
        InputError: naming the field that does not fit.
    """
    known = _known(Card, plain)
    for name in ("name", "source"):
        if not isinstance(known.get(name), str):
            raise InputError(f"card.json: the field {name!r} is {known.get(name)!r}, expected a word")
    if not isinstance(known.get("phantom", ""), str):
        raise InputError(f"card.json: the field 'phantom' is {known['phantom']!r}, expected a hash")
    for name in ("counts", "assumed"):
        known[name] = _object(known, name, "card.json")
    answers = _object(known, "answers", "card.json")
    known["answers"] = Answers(
        _words(answers, "kinds", "card.json answers"),
        bool(answers.get("terms", False)),
        _words(answers, "fields", "card.json answers"),
    )
    fields = _object(known, "fields", "card.json")
    known["fields"] = {name: read_field(name, field) for name, field in fields.items()}
    known["relevance"] = read_relevance(_list(known, "relevance", "card.json"))
    known["terms"] = _list(known, "terms", "card.json")
    if not all(isinstance(term, Mapping) and _is_words(term) for term in known["terms"]):
        raise InputError(
            "card.json: the field 'terms' holds other things than names of terms and of their parents"
        )
    for name in ("targets", "reference", "deidentification"):
        known[name] = _words(known, name, "card.json")
    return Card(**known)


def _is_words(plain: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in plain.values())


def read_field(name: str, plain: Any) -> Field:
    """A record field from the output of `Field.plain`.

    >>> read_field("age_years", {"type": "number", "unit": "years"})
    Field(type='number', unit='years', values=())
    """
    if not isinstance(plain, Mapping) or plain.get("type") not in ("number", "category"):
        raise InputError(f"the record field {name!r} is {plain!r}; expected its type, number or category")
    if plain["type"] == "category":
        return Field("category", None, tuple(map(str, _list(plain, "values", f"the record field {name!r}"))))
    unit = plain.get("unit")
    if unit is not None and not isinstance(unit, str):
        raise InputError(f"the record field {name!r} has the unit {unit!r}; expected a word")
    return Field("number", unit)


def read_relevance(plain: Iterable[Any]) -> tuple[Relevance, ...]:
    """Graded relevance from a card or a MAP; of two cases the first level whose labels all agree counts.

    Raises:
        InputError: if a level lacks its gain or its labels.

    >>> read_relevance([{"gain": 2, "same": ["histology"]}, {"gain": 1, "same": ["malignant"]}])
    (Relevance(gain=2, same=('histology',)), Relevance(gain=1, same=('malignant',)))
    """
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
                f"{place}: case_id {case.case_id!r} is also on line {line_of[case.case_id]}; expected one line per case. Remove one of the two."
            )
        line_of[case.case_id] = number
        cases.append(case)
    return tuple(cases)


def _json(text: str, place: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise InputError(f"{place}: found {constant}; a missing value is absent or null. Remove the field.")

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); expected one object"
        ) from error
    except RecursionError as error:
        raise InputError(f"{place}: nested too deep to be read; expected one object") from error
    if not isinstance(value, dict):
        raise InputError(f"{place}: found a {type(value).__name__}, expected an object")
    return value


def _known(cls: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in plain.items() if name in names and value is not None}


def _object(plain: Mapping[str, Any], name: str, place: str) -> Mapping[str, Any]:
    """The value of a field that holds an object; an empty one if it is missing."""
    value = plain.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{place}: the field {name!r} is {value!r}, expected an object")
    return value or {}


def _list(plain: Mapping[str, Any], name: str, place: str) -> tuple[Any, ...]:
    """The value of a field that holds a list; an empty one if it is missing."""
    value = plain.get(name)
    if value is not None and not isinstance(value, list | tuple):
        raise InputError(f"{place}: the field {name!r} is {value!r}, expected a list")
    return tuple(value or ())


def _words(plain: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    """The value of a field that holds a list of words; an empty one if it is missing."""
    words = _list(plain, name, place)
    if not all(isinstance(word, str) for word in words):
        raise InputError(f"{place}: the field {name!r} is {list(words)!r}, expected a list of words")
    return words


def _values(plain: Mapping[str, Any], name: str, place: str) -> dict[str, Value]:
    """The value of a field that holds an object of numbers and words; null values are left out."""
    values = {field: value for field, value in _object(plain, name, place).items() if value is not None}
    for field, value in values.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        if not number and not isinstance(value, str):
            raise InputError(
                f"{place}: {name} field {field!r} is {value!r}, expected a finite number or a string"
            )
    return values


def _point(value: Any, place: str) -> PointMM:
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    if not numbers or len(value) != 3:
        raise InputError(f"{place}: found {value!r}, expected three numbers in mm (LPS)")
    x, y, z = map(float, value)
    return x, y, z


def read_asset(plain: Any, place: str) -> Asset:
    """An asset as a line of `cases.jsonl` holds it.

    Raises:
        InputError: naming the place and the field that does not fit.
    """
    if not isinstance(plain, Mapping):
        raise InputError(f"{place} is {plain!r}, expected an object")
    for name in ("type", "uri", "sha256"):
        if name not in plain:
            raise InputError(f"{place} lacks {name!r}")
        if not isinstance(plain[name], str):
            raise InputError(f"{place}: the field {name!r} is {plain[name]!r}, expected a word")
    if plain["type"] not in ASSET_TYPES:
        raise InputError(f"{place} has type {plain['type']!r}, expected one of {', '.join(ASSET_TYPES)}")
    if _leaves_cohort(plain["uri"]):
        raise InputError(f"{place} has a uri that leaves the cohort; expected one relative to it")
    known = _known(Asset, plain)
    known["facts"] = _object(known, "facts", place)
    for name in ("kind", "runner_up"):
        if not isinstance(known.get(name, ""), str):
            raise InputError(f"{place}: the field {name!r} is {known[name]!r}, expected a word")
    if not isinstance(known.get("confidence", 0.0), int | float):
        raise InputError(f"{place}: the field 'confidence' is {known['confidence']!r}, expected a number")
    if not isinstance(known.get("files"), Mapping):
        known["files"] = _words(known, "files", place)
    return Asset(**known)


def _leaves_cohort(uri: str) -> bool:
    return Path(uri).is_absolute() or ".." in Path(uri).parts


def _lesion(plain: Mapping[str, Any], place: str) -> Lesion:
    point, mask = _point(plain.get("point_mm"), f"{place}.point_mm"), plain.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise InputError(f"{place}.mask is {mask!r}, expected a uri")
    if mask is not None and _leaves_cohort(mask):
        raise InputError(f"{place}.mask leaves the cohort; expected a uri relative to it")
    return Lesion(point, mask)


def _case(plain: Mapping[str, Any], place: str) -> Case:
    known = _known(Case, plain)
    for name in ("case_id", "patient"):
        if not isinstance(known.get(name), str):
            raise InputError(f"{place}: the field {name!r} is {known.get(name)!r}, expected a string")
    if known["case_id"] in ("", "..") or Path(known["case_id"]).name != known["case_id"]:  # it names a folder
        raise InputError(f"{place}: case_id is {known['case_id']!r}, expected a name without '/'")
    assets = enumerate(_list(known, "assets", place))
    known["assets"] = tuple(read_asset(asset, f"{place}: asset {number}") for number, asset in assets)
    known["record"] = _values(known, "record", place)
    known["labels"] = _values(known, "labels", place)
    sources = _values(known, "label_source", place)
    if not all(isinstance(source, str) for source in sources.values()):
        raise InputError(f"{place}: the field 'label_source' is {sources!r}, expected a word for each label")
    known["label_source"] = sources
    if not isinstance(known.get("frame_from", ""), str):
        raise InputError(f"{place}: the field 'frame_from' is {known['frame_from']!r}, expected a word")
    if "terms" in known:
        known["terms"] = _words(known, "terms", place)
    if "lesion" in known:
        known["lesion"] = _lesion(_object(known, "lesion", place), f"{place} lesion")
    if "frame_mm" in known:
        known["frame_mm"] = _point(known["frame_mm"], f"{place} frame_mm")
    return Case(**known)
