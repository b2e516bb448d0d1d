"""The data types of a case, of a cohort's card, and of the part of a case that one role may see (FORMATS: "A cohort folder")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmvae.errors import InputError as InputError  # where plugins look for it
from mmvae.plain import moved

ASSET_TYPES = ("volume", "image", "signal", "text")
LABEL_SOURCES = ("histology", "follow_up", "reader", "report", "simulated")

Value = float | int | str
PointMM = tuple[float, float, float]


@dataclass(frozen=True)
class Asset:
    """One file of a case: a stack of one geometry, a picture, a signal or a text.

    Args:
        type: One of `ASSET_TYPES`.
        uri: Path relative to the cohort.
        sha256: Hash of the file's bytes, in hex.
        kind: Entry-point name of the modality that claimed it; None if none did.
        confidence: Confidence of the claim, 0 to 1.
        runner_up: The kind with the second-best claim.
        facts: Numbers and codes under DICOM keywords.
        files: F of each source file, or their number and the hash of the list.
    """

    type: str
    uri: str
    sha256: str
    kind: str | None = None
    confidence: float | None = None
    runner_up: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[str] | Mapping[str, Any] = ()


@dataclass(frozen=True)
class Lesion:
    """The index lesion: its point in patient LPS mm and, if it was segmented, the uri of its mask."""

    point_mm: PointMM
    mask: str | None = None


@dataclass(frozen=True)
class Case:
    """All that is known of one patient at one time; what is missing is absent or None, never a sentinel.

    >>> Case("c1", "p1", record={"age_years": 57}, labels={"histology": "cystadenoma"}).record["age_years"]
    57
    """

    case_id: str
    patient: str
    assets: tuple[Asset, ...] = ()
    record: Mapping[str, Value] = field(default_factory=dict)
    terms: tuple[str, ...] | None = None
    lesion: Lesion | None = None
    frame_mm: PointMM | None = None
    frame_from: str | None = None
    labels: Mapping[str, Value] = field(default_factory=dict)
    label_source: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """The parts of a case that reveal the labels by which relevance is judged; the labels themselves always do (EVALUATION.md)."""

    kinds: tuple[str, ...] = ()
    terms: bool = False
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Field:
    """The type of a record field: a number with its unit, or a category with its values."""

    type: Literal["number", "category"] = "number"
    unit: str | None = None
    values: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The field as `card.json` holds it.

        >>> Field("category", values=("pre", "post")).plain()
        {'type': 'category', 'values': ['pre', 'post']}
        """
        if self.type == "number":
            return {"type": self.type, "unit": self.unit}
        return {"type": self.type, "values": list(self.values)}


@dataclass(frozen=True)
class Relevance:
    """One level of graded relevance: two cases that agree in all labels of `same` have this gain."""

    gain: float | int
    same: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """The description of a cohort: its fields, terms, targets, answers and graded relevance (`card.json`)."""

    name: str
    source: str
    counts: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)
    terms: tuple[Mapping[str, str], ...] = ()
    targets: tuple[str, ...] = ()
    answers: Answers = field(default_factory=Answers)
    reference: tuple[str, ...] = ()
    relevance: tuple[Relevance, ...] = ()
    deidentification: tuple[str, ...] = ()
    assumed: Mapping[str, Any] = field(default_factory=dict)
    phantom: str | None = None


@dataclass(frozen=True)
class View:
    """The part of a case that one role may see: selected assets of its kind and, for an answer role, answers (EVALUATION.md).

    `labels` is empty for every role that is not an answer role, and `terms` is None for it if terms are answers.
    """

    root: Path
    assets: tuple[Asset, ...] = ()
    record: Mapping[str, Value] = field(default_factory=dict)
    terms: tuple[str, ...] | None = None
    labels: Mapping[str, Value] = field(default_factory=dict)
    lesion: Lesion | None = None
    frame_mm: PointMM | None = None

    def path(self, asset: Asset) -> Path:
        """The path of the asset's file.

        >>> View(Path("cohort")).path(Asset("volume", "cases/c1/t2.nii.gz", "")).as_posix()
        'cohort/cases/c1/t2.nii.gz'
        """
        return self.root / asset.uri


def __getattr__(name: str) -> Any:
    """Names that were defined here until release 0.1."""
    return moved(__name__, name)
