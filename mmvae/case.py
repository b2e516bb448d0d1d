"""A case, the cohort folder it lies in, and who may see which part of it (FORMATS: "A cohort folder")."""

import hashlib
import json
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

ASSET_TYPES = ("volume", "image", "signal", "text")
LABEL_SOURCES = ("histology", "follow_up", "reader", "report", "simulated")


class InputError(ValueError):
    """Input that is refused: one line that says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Asset:
    """One file of a case: a stack of one geometry, a picture, a signal or a text.

    `facts` are numbers and codes under DICOM keywords; `kind` is None where no modality claimed it.
    """

    type: str
    uri: str
    sha256: str
    kind: str | None = None
    confidence: float | None = None
    runner_up: str | None = None
    facts: Mapping = field(default_factory=dict)
    files: Sequence[str] | Mapping = ()


@dataclass(frozen=True)
class Lesion:
    """The index lesion: its point in patient LPS mm and, where one was drawn, the uri of its mask."""

    point_mm: tuple[float, float, float]
    mask: str | None = None


@dataclass(frozen=True)
class Case:
    """All that is known of one patient at one time; missing is absent or None, never a sentinel."""

    case_id: str
    patient: str
    assets: tuple[Asset, ...] = ()
    record: Mapping[str, float | int | str] = field(default_factory=dict)
    terms: tuple[str, ...] | None = None
    lesion: Lesion | None = None
    frame_mm: tuple[float, float, float] | None = None
    frame_from: str | None = None
    labels: Mapping[str, float | int | str] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """The pieces of a case that state what relevance is made of; labels always are (EVALUATION.md)."""

    kinds: tuple[str, ...] = ()
    terms: bool = False
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """What a cohort is: its fields, terms, targets, answers and graded relevance (`card.json`)."""

    name: str
    source: str
    counts: Mapping = field(default_factory=dict)
    fields: Mapping[str, Mapping] = field(default_factory=dict)
    terms: tuple[Mapping, ...] = ()
    targets: tuple[str, ...] = ()
    answers: Answers = field(default_factory=Answers)
    reference: tuple[str, ...] = ()
    relevance: tuple[Mapping, ...] = ()
    deidentification: tuple[str, ...] = ()
    assumed: Mapping = field(default_factory=dict)
    phantom: str | None = None


@dataclass(frozen=True)
class View:
    """The part of a case that one role may see: selected assets of its kind and, per EVALUATION.md, answers or not.

    `terms` is None and `labels` is empty for every role that is no answer role.
    """

    root: Path
    assets: tuple[Asset, ...] = ()
    record: Mapping[str, float | int | str] = field(default_factory=dict)
    terms: tuple[str, ...] | None = None
    labels: Mapping[str, float | int | str] = field(default_factory=dict)
    lesion: Lesion | None = None
    frame_mm: tuple[float, float, float] | None = None

    def path(self, asset: Asset) -> Path:
        """Where the asset's file lies."""
        return self.root / asset.uri


@dataclass(frozen=True)
class Split:
    """Patients of one split; no patient stands in two of its lists."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """One split, or folds, by patient (`splits.json`)."""

    folds: tuple[Split, ...]
    single: bool = True
    group: str = "patient"
    seed: int = 0

    def __post_init__(self):
        for number, split in enumerate(self.folds):
            seen: dict[str, str] = {}
            for name in ("train", "validation", "test"):
                for patient in getattr(split, name):
                    if seen.setdefault(patient, name) != name:
                        raise InputError(
                            f"splits.json: {self.group} {patient} stands in both {seen[patient]} and {name} of fold "
                            f"{number}; a {self.group} belongs to one list. Draw the splits again with `mmvae scan`."
                        )

    def fold(self, number: int | None) -> Split:
        """The split with this number; None is the only one."""
        if number is None and not self.single:
            raise InputError(
                f"splits.json holds {len(self.folds)} folds and data.fold is not set; give --data.fold 0…{len(self.folds) - 1}"
            )
        if number is not None and not 0 <= number < len(self.folds):
            raise InputError(f"data.fold is {number}; splits.json holds folds 0…{len(self.folds) - 1}")
        return self.folds[number or 0]

    def plain(self) -> dict:
        """As written to `splits.json`."""
        folds = [asdict(split) for split in self.folds]
        head = {"group": self.group, "seed": self.seed}
        return {**head, **folds[0]} if self.single else {**head, "folds": folds}

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON; goes into checkpoints and rows."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def draw_splits(
    patients: Sequence[str], sizes: Sequence[int] | None = None, folds: int | None = None, seed: int = 0
) -> Splits:
    """Splits by patient: shuffled by `seed`, then 60/15/25 %, the given sizes, or folds.

    With folds, fold i tests on part i, validates on part i + 1 and trains on the rest.
    """
    order = list(dict.fromkeys(patients))
    random.Random(seed).shuffle(order)
    if folds is not None:
        if not 3 <= folds <= len(order):
            raise InputError(f"--folds {folds}: expected 3…{len(order)}, the number of patients found")
        parts = [tuple(order[i::folds]) for i in range(folds)]
        rest = lambda i: sum((parts[j] for j in range(folds) if j not in (i, (i + 1) % folds)), ())  # noqa: E731
        drawn = tuple(Split(rest(i), parts[(i + 1) % folds], parts[i]) for i in range(folds))
        return Splits(drawn, single=False, seed=seed)
    if sizes is None:
        train, validation = round(0.6 * len(order)), round(0.15 * len(order))
        sizes = (train, validation, len(order) - train - validation)
    if len(sizes) != 3 or sum(sizes) > len(order):
        raise InputError(
            f"--splits {','.join(map(str, sizes))}: expected three numbers with a sum of at most {len(order)}, the patients found"
        )
    a, b = sizes[0], sizes[0] + sizes[1]
    return Splits((Split(tuple(order[:a]), tuple(order[a:b]), tuple(order[b : b + sizes[2]])),), seed=seed)


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
        card = _card(_json((root / "card.json").read_text(), "card.json"))
        cases, line_of = [], {}
        for number, line in enumerate((root / "cases.jsonl").read_text().splitlines(), 1):
            place = f"cases.jsonl line {number}"
            case = _case(_json(line, place), place)
            if case.case_id in line_of:
                raise InputError(
                    f"{place}: case_id {case.case_id!r} stands on line {line_of[case.case_id]} too; a case is one line. Remove one of the two."
                )
            line_of[case.case_id] = number
            cases.append(case)
        if not cases:
            raise InputError(
                f"{root / 'cases.jsonl'} holds no case; expected one a line. Scan the source again."
            )
        splits = None
        if (root / "splits.json").is_file():
            plain = _json((root / "splits.json").read_text(), "splits.json")
            lists = ("train", "validation", "test")
            folds = plain.get("folds") or [plain]
            if any(name not in fold for fold in folds for name in lists):
                raise InputError(
                    "splits.json: expected the lists train, validation and test, or folds of them"
                )
            read = tuple(Split(*(tuple(fold[name]) for name in lists)) for fold in folds)
            splits = Splits(read, "folds" not in plain, plain.get("group", "patient"), plain.get("seed", 0))
            straddling_patients(cases, splits)
        return cls(root, card, tuple(cases), splits)

    def split(self, name: str, fold: int | None = None) -> tuple[Case, ...]:
        """The cases of `train`, `validation` or `test`."""
        if self.splits is None:
            raise InputError(
                f"{self.root} has no splits.json; draw one with `mmvae scan --splits` or use `mmvae embed`"
            )
        patients = set(getattr(self.splits.fold(fold), name))
        return tuple(case for case in self.cases if case.patient in patients)

    def case(self, case_id: str) -> Case:
        """The case with this id."""
        for case in self.cases:
            if case.case_id == case_id:
                return case
        raise InputError(
            f"the cohort has no case {case_id!r}; it holds {len(self.cases)}, e.g. {self.cases[0].case_id}"
        )

    @property
    def sha256(self) -> str:
        """Hash of what the cases are: their ids, assets, records, terms, labels."""
        lines = "\n".join(sorted(json.dumps(plain_case(case), sort_keys=True) for case in self.cases))
        return hashlib.sha256(lines.encode()).hexdigest()


def straddling_patients(cases: Iterable[Case], splits: Splits) -> None:
    """Refuses splits that name none of the cohort's patients: a file of another cohort."""
    patients = {case.patient for case in cases}
    named = {p for split in splits.folds for p in (*split.train, *split.validation, *split.test)}
    if not patients & named:
        raise InputError(
            f"splits.json names {len(named)} patients and none of the cohort's {len(patients)}: it belongs to another cohort"
        )


def plain_case(case: Case) -> dict:
    """The case as one line of `cases.jsonl`."""
    plain = asdict(case)
    for asset in plain["assets"]:
        asset["files"] = dict(asset["files"]) if isinstance(asset["files"], dict) else list(asset["files"])
    return plain


def cases_jsonl(cases: Iterable[Case]) -> str:
    """The text of cases.jsonl: one case a line."""
    lines = (json.dumps(plain_case(case), allow_nan=False, ensure_ascii=False) + "\n" for case in cases)
    return "".join(lines)


def write_cohort(root: Path, card: Card, cases: Sequence[Case], splits: Splits | None) -> None:
    """Writes card, cases and splits into a folder that already holds `cases/`."""
    (root / "cases.jsonl").write_text(cases_jsonl(cases))
    (root / "card.json").write_text(
        json.dumps(asdict(card), allow_nan=False, indent=1, ensure_ascii=False) + "\n"
    )
    if splits is not None:
        (root / "splits.json").write_text(json.dumps(splits.plain(), indent=1) + "\n")


def write_atomically(path: Path, data: bytes) -> None:
    """The file appears whole or not at all: written beside, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _json(text: str, place: str) -> dict:
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


def _known(cls, plain: dict) -> dict:
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in plain.items() if name in names and value is not None}


def _card(plain: dict) -> Card:
    known = _known(Card, plain)
    for name in ("name", "source"):
        if name not in known:
            raise InputError(f"card.json: the field {name!r} is missing")
    answers = known.get("answers", {})
    known["answers"] = Answers(
        tuple(answers.get("kinds", ())), bool(answers.get("terms", False)), tuple(answers.get("fields", ()))
    )
    for name in ("terms", "targets", "reference", "relevance", "deidentification"):
        known[name] = tuple(known.get(name, ()))
    return Card(**known)


def _point(value, place: str) -> tuple[float, float, float]:
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value)):
        raise InputError(f"{place}: found {value!r}, expected three numbers in mm (LPS)")
    return tuple(float(v) for v in value)


def _case(plain: dict, place: str) -> Case:
    known = _known(Case, plain)
    for name in ("case_id", "patient"):
        if not isinstance(known.get(name), str):
            raise InputError(f"{place}: the field {name!r} is {known.get(name)!r}, expected a string")
    assets = []
    for number, asset in enumerate(known.get("assets", ())):
        missing = [name for name in ("type", "uri", "sha256") if name not in asset]
        if missing:
            raise InputError(f"{place}: asset {number} lacks {missing[0]!r}")
        if asset["type"] not in ASSET_TYPES:
            raise InputError(
                f"{place}: asset {number} has type {asset['type']!r}, expected one of {', '.join(ASSET_TYPES)}"
            )
        if Path(asset["uri"]).is_absolute() or ".." in Path(asset["uri"]).parts:
            raise InputError(
                f"{place}: asset {number} has a uri that leaves the cohort; expected one relative to it"
            )
        read = _known(Asset, asset)
        if isinstance(read.get("files"), list):
            read["files"] = tuple(read["files"])
        assets.append(Asset(**read))
    known["assets"] = tuple(assets)
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
        known["lesion"] = Lesion(
            _point(known["lesion"].get("point_mm"), f"{place} lesion.point_mm"), known["lesion"].get("mask")
        )
    if "frame_mm" in known:
        known["frame_mm"] = _point(known["frame_mm"], f"{place} frame_mm")
    return Case(**known)
