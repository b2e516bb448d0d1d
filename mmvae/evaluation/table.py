"""The table of an evaluation: scores per patient by KEY of metrics.json, to be pooled, averaged and summarised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mmvae.errors import InputError
from mmvae.metrics.estimates import Estimate, PerPatient, paired, summarise
from mmvae.metrics.scores import Scores


def subsets_of(roles: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the roles of each sorted, smallest subsets first.

    >>> subsets_of(["t2", "dwi"])
    [('dwi',), ('t2',), ('dwi', 't2')]
    """
    return [tuple(sorted(s)) for size in range(1, len(roles) + 1) for s in combinations(sorted(roles), size)]


def key_of(subset: Iterable[str]) -> str:
    """Sorted role names joined by +, as metrics.json names a subset.

    >>> key_of(("t2", "dwi"))
    'dwi+t2'
    """
    return "+".join(sorted(subset))


@dataclass(frozen=True)
class Table:
    """Per-patient scores by KEY of metrics.json, and what produced them.

    Args:
        rows: Scores by KEY.
        classes: Class of each patient, if a single label decides relevance.
        protocol: How the scores were produced: archive, splits, relevance, bootstrap, supervision …
    """

    rows: Mapping[str, PerPatient]
    classes: Mapping[str, str]
    protocol: Mapping[str, Any]

    def metrics(self) -> dict[str, dict[str, Estimate]]:
        """Estimates by KEY: of every row, of paired differences, per class and macro-averaged."""
        estimates = {key: summarise(row) for key, row in self.rows.items()}
        singles = [key for key in self.rows if "/" not in key and "+" not in key and key != "full"]
        heads = ["full", *[key for key in self.rows if key.startswith("group/")]]
        heads = [head for head in heads if head in self.rows]
        for head in heads:
            rivals = [*singles, *[key for key in [f"late/{head}"] if key in self.rows]]
            for rival in rivals:
                estimates[f"paired/{head}-{rival}"] = paired(self.rows[head], self.rows[rival])
        for key in (*heads, *singles):
            estimates |= self._by_class(key)
        return estimates

    def _by_class(self, key: str) -> dict[str, dict[str, Estimate]]:
        """The row's estimates within each class, and their mean with every class counting equally."""
        row = self.rows[key]
        class_of = np.array([self.classes.get(patient, "") for patient in row.patients])
        names = sorted(set(class_of) - {""})
        estimates = {f"class/{name}/{key}": summarise(row.rows(class_of == name)) for name in names}
        known = row.rows(class_of != "")
        size_of = {name: (class_of == name).sum() for name in names}
        share = np.array([1 / size_of[name] for name in class_of if name]) * len(known.patients)
        share = share[:, None] / max(len(names), 1)
        macro = PerPatient(
            known.patients, Scores(known.value.table * share), Scores(known.chance.table * share)
        )
        return {**estimates, f"macro/{key}": summarise(macro)}


def pool(parts: Sequence[PerPatient]) -> PerPatient:
    """The scores of the patients of all folds, sorted; each is a test patient of exactly one fold."""
    together = PerPatient(
        tuple(patient for part in parts for patient in part.patients),
        Scores(np.concatenate([part.value.table for part in parts])),
        Scores(np.concatenate([part.chance.table for part in parts])),
    )
    order = sorted(range(len(together.patients)), key=lambda n: together.patients[n])
    return together.rows(order)


def average(seeds: Sequence[PerPatient]) -> PerPatient:
    """Each patient's scores averaged over several training seeds, which must all have the same patients."""
    patients = seeds[0].patients
    if any(row.patients != patients for row in seeds):
        raise InputError("the seeds ranked different patients; they must share splits")
    value, chance = ([getattr(row, side).table for row in seeds] for side in ("value", "chance"))
    return PerPatient(patients, Scores(np.mean(value, 0)), Scores(np.mean(chance, 0)))
