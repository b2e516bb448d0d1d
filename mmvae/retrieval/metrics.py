"""P@k, mAP and nDCG of ranked archives under graded relevance, with chance and bootstrap intervals. No model here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

METRICS = ("P@1", "P@5", "P@10", "mAP", "nDCG@10")
DRAWS = 2000


def gains(
    query: Sequence[Mapping], archive: Sequence[Mapping], relevance: Sequence[Mapping]
) -> Float[np.ndarray, "Q N"]:
    """The gain of each archive case to each query: the first entry of `relevance` whose labels are all equal, else 0.

    A missing label equals nothing, not even another missing one.
    """
    total = np.zeros((len(query), len(archive)))
    taken = np.zeros_like(total, dtype=bool)
    for level in relevance:
        same = np.ones_like(taken)
        for name in level["same"]:
            a = np.array([str(labels[name]) if name in labels else "" for labels in query], dtype=object)
            b = np.array([str(labels[name]) if name in labels else "" for labels in archive], dtype=object)
            same &= (a[:, None] == b[None]) & (a[:, None] != "") & (b[None] != "")
        total[same & ~taken] = level["gain"]
        taken |= same
    return total


def labelled(labels: Sequence[Mapping], relevance: Sequence[Mapping]) -> Bool[np.ndarray, " N"]:
    """Whether a case has every label of the list's highest gain; one without is on neither side."""
    best = max(relevance, key=lambda level: level["gain"])
    return np.array([all(name in one for name in best["same"]) for one in labels], dtype=bool)


def counts_as_relevant(relevance: Sequence[Mapping]) -> float:
    """The smallest gain that P@k and mAP count: 2, or any where the list holds one gain."""
    return (
        2.0
        if len({level["gain"] for level in relevance}) > 1
        else float(min(level["gain"] for level in relevance))
    )


def score(
    distance: Float[np.ndarray, "Q N"],
    gain: Float[np.ndarray, "Q N"],
    allowed: Bool[np.ndarray, "Q N"],
    at_least: float,
) -> tuple[Float[np.ndarray, "Q F"], Float[np.ndarray, "Q F"]]:
    """Each query's metrics, and their expectation under a random order (columns: METRICS); NaN where undefined.

    Ties are broken by archive order. P@k divides by k however short the archive is. A query without a relevant case has
    no mAP; without any gain, no nDCG.
    """
    distance = np.where(allowed, distance, np.inf)
    order = np.argsort(distance, axis=1, kind="stable")
    sorted_gain = np.take_along_axis(np.where(allowed, gain, 0.0), order, 1)
    relevant = sorted_gain >= at_least
    size, found = allowed.sum(1), relevant.sum(1)
    ranks = np.arange(1, distance.shape[1] + 1)
    value, chance = np.full((len(distance), 5), np.nan), np.full((len(distance), 5), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for column, k in enumerate((1, 5, 10)):
            value[:, column] = relevant[:, :k].sum(1) / k
            chance[:, column] = found / size * np.minimum(k, size) / k
        value[:, 3] = (relevant * np.cumsum(relevant, 1) / ranks).sum(1) / found
        chance[:, 3] = [expected_average_precision(int(r), int(n)) for r, n in zip(found, size)]
        discount = 1 / np.log2(ranks[:10] + 1)
        power = lambda g: 2.0**g - 1  # noqa: E731 - Järvelin & Kekäläinen 2002 with exponential gain
        ideal_gain = -np.sort(-np.where(allowed, gain, 0.0), 1)[:, :10]
        ideal = (power(ideal_gain) * discount[: ideal_gain.shape[1]]).sum(1)
        got = (power(sorted_gain[:, :10]) * discount[: ideal_gain.shape[1]]).sum(1)
        value[:, 4] = np.where(ideal > 0, got / ideal, np.nan)
        mean_power = (power(sorted_gain) * (np.arange(distance.shape[1]) < size[:, None])).sum(1) / size
        reach = (
            discount[None, : ideal_gain.shape[1]] * (np.arange(ideal_gain.shape[1]) < size[:, None])
        ).sum(1)
        chance[:, 4] = np.where(ideal > 0, mean_power * reach / ideal, np.nan)
    value[size == 0] = chance[size == 0] = np.nan
    return value, chance


@cache
def expected_average_precision(relevant: int, size: int) -> float:
    """Average precision expected of a random order of `size` cases of which `relevant` count.

    The item at rank i is relevant with chance R/N, and then (i − 1)(R − 1)/(N − 1) of those before it are expected to be:
    E = 1/N Σ_i (1 + (i − 1)(R − 1)/(N − 1)) / i.
    """
    if relevant == 0 or size == 0:
        return float("nan")
    if size == 1:
        return 1.0
    i = np.arange(1, size + 1)
    return float(((1 + (i - 1) * (relevant - 1) / (size - 1)) / i).mean())


@dataclass(frozen=True)
class PerPatient:
    """Metric values by patient (P, F): queries of a patient averaged, NaN where undefined; chance alike."""

    patients: tuple[str, ...]
    value: Float[np.ndarray, "P F"]
    chance: Float[np.ndarray, "P F"]


def by_patient(
    patients: Sequence[str], value: Float[np.ndarray, "Q F"], chance: Float[np.ndarray, "Q F"]
) -> PerPatient:
    """The mean over each patient's queries, patients sorted."""
    names = sorted(set(patients))
    row = np.array([names.index(p) for p in patients], int)

    def mean(x):
        out = np.full((len(names), x.shape[1]), np.nan)
        for n in range(len(names)):
            mine = x[row == n]
            known = ~np.isnan(mine)
            total = np.where(known, mine, 0).sum(0)
            out[n] = np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)
        return out

    return PerPatient(tuple(names), mean(value), mean(chance))


@cache
def resamples(count: int, seed: int = 0) -> Int[np.ndarray, "S P"]:
    """How often each of `count` patients is drawn in each of 2,000 bootstrap draws."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)


def summarise(
    value: Float[np.ndarray, "P F"], chance: Float[np.ndarray, "P F"], seed: int = 0
) -> dict[str, dict]:
    """Mean over patients, 95 % percentile interval from resampled patients, chance and n, for each metric; null where undefined."""
    made = {}
    for column, name in enumerate(METRICS):
        known = ~np.isnan(value[:, column])
        x, n = value[known, column], int(known.sum())
        if n == 0:
            made[name] = {"value": None, "low": None, "high": None, "chance": None, "n": 0}
            continue
        low, high = np.percentile(resamples(n, seed) @ x / n, [2.5, 97.5])
        expected = (
            float(np.nanmean(chance[known, column])) if not np.isnan(chance[known, column]).all() else None
        )
        made[name] = {
            "value": float(x.mean()),
            "low": float(low),
            "high": float(high),
            "chance": expected,
            "n": n,
        }
    return made


def paired(a: PerPatient, b: PerPatient, seed: int = 0) -> dict[str, dict]:
    """A minus B over the patients common to both, with the interval of the difference; its chance is 0."""
    common = sorted(set(a.patients) & set(b.patients))
    pick = lambda x: x.value[[x.patients.index(p) for p in common]]  # noqa: E731
    if not common:
        return summarise(np.full((0, 5), np.nan), np.full((0, 5), np.nan), seed)
    difference = pick(a) - pick(b)
    return summarise(difference, np.zeros_like(difference), seed)
