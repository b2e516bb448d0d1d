"""Training, validation and test patients: one split or folds (`splits.json`)."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmvae.case import Case
from mmvae.errors import InputError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The patients of one split; no patient is in two of its lists."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def part(self, name: str) -> tuple[str, ...]:
        """The patients of `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class Splits:
    """One split, or folds, by patient (`splits.json`).

    >>> splits = Splits((Split(("p1", "p2"), ("p3",), ("p4",)),))
    >>> Splits.read(splits.plain()) == splits
    True
    >>> Splits((Split(("p1",), ("p1",), ()),))
    Traceback (most recent call last):
    mmvae.errors.InputError: splits.json: patient p1 is in both train and validation of fold 0; ...
    """

    folds: tuple[Split, ...]
    single: bool = True
    group: str = "patient"
    seed: int = 0

    def __post_init__(self):
        for number, split in enumerate(self.folds):
            part_of: dict[str, str] = {}
            for name in PARTS:
                for patient in split.part(name):
                    if part_of.setdefault(patient, name) != name:
                        raise InputError(
                            f"splits.json: {self.group} {patient} is in both {part_of[patient]} and {name} of fold "
                            f"{number}; a {self.group} belongs to one list. Draw the splits again with `mmvae scan`."
                        )

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Splits":
        """The splits from the output of `plain`.

        Raises:
            InputError: if a list is missing or does not hold names of patients, or a patient is in two lists.
        """
        folds = plain.get("folds", [plain])
        if not isinstance(folds, list | tuple) or not folds or not all(map(_has_three_lists, folds)):
            raise InputError(
                "splits.json: expected the lists train, validation and test, each of patients' pseudonyms, or folds of them; "
                "draw the splits again with `mmvae scan`"
            )
        group, seed = plain.get("group", "patient"), plain.get("seed", 0)
        if not isinstance(group, str) or not isinstance(seed, int):
            raise InputError(
                f"splits.json: group is {group!r} and seed {seed!r}; expected a word and a whole number"
            )
        splits = tuple(Split(*(tuple(fold[name]) for name in PARTS)) for fold in folds)
        return cls(splits, "folds" not in plain, group, seed)

    def fold(self, number: int | None) -> Split:
        """The split with this number; None for the only one."""
        if number is None and not self.single:
            raise InputError(
                f"splits.json holds {len(self.folds)} folds and data.fold is not set; give one of 0…{len(self.folds) - 1}",
                "fold",
            )
        if number is not None and not 0 <= number < len(self.folds):
            raise InputError(
                f"data.fold is {number}; splits.json holds folds 0…{len(self.folds) - 1}", "fold"
            )
        return self.folds[number or 0]

    def plain(self) -> dict[str, Any]:
        """The splits as `splits.json` holds them."""
        folds = [asdict(split) for split in self.folds]
        head = {"group": self.group, "seed": self.seed}
        return {**head, **folds[0]} if self.single else {**head, "folds": folds}

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON, stored in checkpoints and result rows."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    def refuse_foreign_cohort(self, cases: Iterable[Case]) -> None:
        """Raises an InputError if the splits name none of the cohort's patients: they belong to another cohort."""
        patients = {case.patient for case in cases}
        named = {patient for split in self.folds for name in PARTS for patient in split.part(name)}
        if not patients & named:
            raise InputError(
                f"splits.json names {len(named)} patients and none of the cohort's {len(patients)}: it belongs to another cohort"
            )


def _has_three_lists(fold: object) -> bool:
    return isinstance(fold, Mapping) and all(
        isinstance(fold.get(name), list | tuple) and all(isinstance(patient, str) for patient in fold[name])
        for name in PARTS
    )


def draw_splits(
    patients: Sequence[str], sizes: Sequence[int] | None = None, folds: int | None = None, seed: int = 0
) -> Splits:
    """Splits by patient: shuffled by `seed`, then 60/15/25 %, the given sizes, or folds.

    Args:
        patients: Pseudonyms; repeated ones count once.
        sizes: Numbers of training, validation and test patients; the remaining patients are in no list.
        folds: Number of folds: fold i tests on part i, validates on part i + 1 and trains on the rest.
        seed: Seed of the order.

    Raises:
        InputError: if there are too few patients.

    >>> split = draw_splits(["p1", "p2", "p3", "p4"], sizes=(2, 1, 1)).fold(None)
    >>> len(split.train), len(split.validation), len(split.test)
    (2, 1, 1)
    """
    order = list(dict.fromkeys(patients))
    random.Random(seed).shuffle(order)
    if folds is not None:
        return _folds(order, folds, seed)
    if sizes is None:
        train, validation = round(0.6 * len(order)), round(0.15 * len(order))
        sizes = (train, validation, len(order) - train - validation)
    if len(sizes) != 3 or sum(sizes) > len(order) or min(sizes) < 0:
        raise InputError(
            f"splits are {','.join(map(str, sizes))}; expected three numbers with a sum of at most {len(order)}, the patients found",
            "splits",
        )
    a, b = sizes[0], sizes[0] + sizes[1]
    return Splits((Split(tuple(order[:a]), tuple(order[a:b]), tuple(order[b : b + sizes[2]])),), seed=seed)


def _folds(order: Sequence[str], count: int, seed: int) -> Splits:
    if not 3 <= count <= len(order):
        raise InputError(f"folds are {count}; expected 3…{len(order)}, the number of patients found", "folds")
    parts = [tuple(order[i::count]) for i in range(count)]
    splits = []
    for i in range(count):
        following = (i + 1) % count
        rest = tuple(p for j in range(count) if j not in (i, following) for p in parts[j])
        splits.append(Split(rest, parts[following], parts[i]))
    return Splits(tuple(splits), single=False, seed=seed)
