"""Means over patients with bootstrap intervals, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmvae.metrics.scores import METRICS, Scores

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over n patients with its 95 % interval, and what chance gives; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    n: int


@dataclass(frozen=True)
class PerPatient:
    """Scores of P patients, the queries of a patient averaged; chance alike."""

    patients: tuple[str, ...]
    value: Scores
    chance: Scores

    def rows(self, index: Any) -> "PerPatient":
        """The patients with these indices or this mask."""
        names = tuple(np.array(self.patients, dtype=object)[index])
        return PerPatient(names, Scores(self.value.table[index]), Scores(self.chance.table[index]))


def by_patient(patients: Sequence[str], value: Scores, chance: Scores) -> PerPatient:
    """The mean over each patient's queries, patients sorted."""
    names = sorted(set(patients))
    row = np.array([names.index(p) for p in patients], int)

    def mean(scores: Scores) -> Scores:
        table = np.full((len(names), scores.table.shape[1]), np.nan)
        for n in range(len(names)):
            of_patient = scores.table[row == n]
            known = ~np.isnan(of_patient)
            total = np.where(known, of_patient, 0).sum(0)
            table[n] = np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)
        return Scores(table)

    return PerPatient(tuple(names), mean(value), mean(chance))


@cache
def resamples(count: int, seed: int = 0) -> Int[np.ndarray, "S P"]:
    """How often each of `count` patients is drawn in each of 2,000 bootstrap draws."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)


def estimate(value: Float[np.ndarray, " P"], chance: Float[np.ndarray, " P"], seed: int = 0) -> Estimate:
    """Mean over the patients for whom the value is defined, with the 95 % percentile interval of resampled patients.

    >>> estimate(np.array([0.2, 0.4, np.nan]), np.array([0.1, 0.1, np.nan])).n
    2
    """
    known = ~np.isnan(value)
    x, expected, n = value[known], chance[known], int(known.sum())
    if n == 0:
        return Estimate(None, None, None, None, 0)
    low, high = np.percentile(resamples(n, seed) @ x / n, [2.5, 97.5])
    by_chance = None if np.isnan(expected).all() else float(np.nanmean(expected))
    return Estimate(float(x.mean()), float(low), float(high), by_chance, n)


def summarise(row: PerPatient, seed: int = 0) -> dict[str, Estimate]:
    """An estimate of each metric."""
    return {name: estimate(row.value[name], row.chance[name], seed) for name in METRICS}


def paired(a: PerPatient, b: PerPatient, seed: int = 0) -> dict[str, Estimate]:
    """A minus B over the patients common to both, with the interval of the difference; its chance is 0."""
    common = sorted(set(a.patients) & set(b.patients))
    table_of = lambda x: x.value.table[[x.patients.index(p) for p in common]]  # noqa: E731
    difference = table_of(a) - table_of(b) if common else np.full((0, len(METRICS)), np.nan)
    return summarise(PerPatient(tuple(common), Scores(difference), Scores(np.zeros_like(difference))), seed)


def plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Estimates as metrics.json holds them."""
    return {name: asdict(one) for name, one in estimates.items()}
