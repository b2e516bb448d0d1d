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
    """A mean over n patients with its 95 % interval, and the expected value for a random order; None if undefined."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    n: int


@dataclass(frozen=True)
class PerPatient:
    """Scores of P patients, averaged over each patient's queries; `chance` holds those expected of a random order."""

    patients: tuple[str, ...]
    value: Scores
    chance: Scores

    def rows(self, index: Any) -> "PerPatient":
        """The scores of the patients with these indices or this mask."""
        names = tuple(np.array(self.patients, dtype=object)[index])
        return PerPatient(names, Scores(self.value.table[index]), Scores(self.chance.table[index]))

    def of(self, patients: Sequence[str]) -> "PerPatient":
        """The scores of these patients in this order; each must be in the table."""
        return self.rows([self.patients.index(patient) for patient in patients])


def by_patient(patients: Sequence[str], value: Scores, chance: Scores) -> PerPatient:
    """The mean over each patient's queries, sorted by patient.

    >>> each_metric = len(METRICS)
    >>> value = Scores(np.array([[1.0] * each_metric, [0.0] * each_metric, [1.0] * each_metric]))
    >>> by_patient(["p2", "p2", "p1"], value, value).value.mAP.tolist()
    [1.0, 0.5]

    Args:
        patients: Patient of each of the N queries.
        value: Scores of the queries.
        chance: Scores expected of a random order.
    """
    names = sorted(set(patients))
    row = np.array([names.index(patient) for patient in patients], int)

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
    """How often each of `count` patients is drawn in each of the bootstrap's `DRAWS`."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)


def estimate(value: Float[np.ndarray, " P"], chance: Float[np.ndarray, " P"], seed: int = 0) -> Estimate:
    """Mean over the patients for whom the value is defined, with the 95 % percentile interval of resampled patients.

    With few patients the interval is somewhat too narrow, as percentile intervals are: for n = 30 it covers the true mean in
    about 93 % of samples (tests/test_metrics.py simulates it).

    >>> estimate(np.array([0.2, 0.4, np.nan]), np.array([0.1, 0.1, np.nan])).n
    2

    Args:
        value: Value of each patient; NaN if undefined.
        chance: Value expected of a random order for the same patients.
        seed: Seed of the resampling.
    """
    known = ~np.isnan(value)
    x, expected, n = value[known], chance[known], int(known.sum())
    if n == 0:
        return Estimate(None, None, None, None, 0)
    low, high = np.percentile(resamples(n, seed) @ x / n, [2.5, 97.5])
    by_chance = None if np.isnan(expected).all() else float(np.nanmean(expected))
    return Estimate(float(x.mean()), float(low), float(high), by_chance, n)


def summarise(row: PerPatient, seed: int = 0) -> dict[str, Estimate]:
    """The estimate of each metric.

    >>> half = Scores(np.full((2, len(METRICS)), 0.5))
    >>> summarise(PerPatient(("p1", "p2"), half, half))["mAP"]
    Estimate(value=0.5, low=0.5, high=0.5, chance=0.5, n=2)
    """
    return {name: estimate(row.value[name], row.chance[name], seed) for name in METRICS}


def paired(a: PerPatient, b: PerPatient, seed: int = 0) -> dict[str, Estimate]:
    """The estimate of A minus B over the patients common to both; its chance level is 0.

    >>> scores = lambda value: Scores(np.full((2, len(METRICS)), value))
    >>> a = PerPatient(("p1", "p2"), scores(0.75), scores(0.1))
    >>> b = PerPatient(("p2", "p3"), scores(0.5), scores(0.1))
    >>> paired(a, b)["mAP"]
    Estimate(value=0.25, low=0.25, high=0.25, chance=0.0, n=1)
    """
    common = sorted(set(a.patients) & set(b.patients))
    difference = a.of(common).value.table - b.of(common).value.table
    return summarise(PerPatient(tuple(common), Scores(difference), Scores(np.zeros_like(difference))), seed)


def plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """The estimates as JSON values, as metrics.json holds them."""
    return {metric: asdict(of_metric) for metric, of_metric in estimates.items()}


def read_estimate(content: Mapping[str, Any]) -> Estimate:
    """An estimate from the output of `plain`; its chance is None if none was written."""
    return Estimate(content["value"], content["low"], content["high"], content.get("chance"), content["n"])
