"""P@k, mAP and nDCG of ranked archives, and what a random order is expected to score."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

METRICS = ("P@1", "P@5", "P@10", "mAP", "nDCG@10")
CUTOFFS = (1, 5, 10)  # of P@k
DEPTH = 10  # of nDCG


@dataclass(frozen=True)
class Scores:
    """Metrics of N queries or patients, one column for each of `METRICS`; NaN where undefined."""

    table: Float[np.ndarray, "N F"]

    def __getitem__(self, metric: str) -> Float[np.ndarray, " N"]:
        """The values of one metric."""
        return self.table[:, METRICS.index(metric)]

    @property
    def mAP(self) -> Float[np.ndarray, " N"]:
        """Average precision of each query; its mean over queries is the mAP."""
        return self["mAP"]

    def mean(self) -> dict[str, float]:
        """Each metric's mean over the queries for which it is defined; 0 if it is defined for none."""
        known = ~np.isnan(self.table)
        average = np.where(known, self.table, 0).sum(0) / np.maximum(known.sum(0), 1)
        return dict(zip(METRICS, average.tolist(), strict=True))


def score(
    distance: Float[np.ndarray, "Q N"],
    gain: Float[np.ndarray, "Q N"],
    allowed: Bool[np.ndarray, "Q N"],
    at_least: float | int,
) -> tuple[Scores, Scores]:
    """Each query's metrics, and their expectation under a random order.

    Ties are broken by archive order. P@k divides by k however short the archive is. A query without a relevant case has
    no mAP; one without any gain has no nDCG (Järvelin & Kekäläinen 2002, doi:10.1145/582415.582418, with gain 2^g − 1).

    >>> distance = np.array([[0.3, 0.1, 0.2]])  # the second case is the nearest, then the third, then the first
    >>> value, chance = score(distance, np.array([[0.0, 0.0, 1.0]]), np.ones((1, 3), bool), at_least=1)
    >>> value["P@1"].tolist(), value.mAP.tolist()
    ([0.0], [0.5])

    Args:
        distance: Distance of each archive case from each query.
        gain: Graded relevance of each archive case for each query.
        allowed: Which archive cases a query may find.
        at_least: Smallest gain that P@k and mAP count as relevant.

    Returns:
        The scores of the Q queries, and what a random order of the allowed cases is expected to score.
    """
    distance = np.where(allowed, distance, np.inf)
    order = np.argsort(distance, axis=1, kind="stable")
    sorted_gain = np.take_along_axis(np.where(allowed, gain, 0.0), order, 1)
    relevant = sorted_gain >= at_least
    size, found = allowed.sum(1), relevant.sum(1)
    ranks = np.arange(1, distance.shape[1] + 1)
    value, chance = (Scores(np.full((len(distance), len(METRICS)), np.nan)) for _ in range(2))
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in CUTOFFS:
            value[f"P@{k}"][:] = relevant[:, :k].sum(1) / k
            chance[f"P@{k}"][:] = found / size * np.minimum(k, size) / k
        value.mAP[:] = (relevant * np.cumsum(relevant, 1) / ranks).sum(1) / found
        chance.mAP[:] = [expected_average_precision(int(r), int(n)) for r, n in zip(found, size)]
        value[f"nDCG@{DEPTH}"][:], chance[f"nDCG@{DEPTH}"][:] = _gain_at_depth(
            sorted_gain, np.where(allowed, gain, 0.0), size
        )
    value.table[size == 0] = chance.table[size == 0] = np.nan
    return value, chance


def _gain_at_depth(
    sorted_gain: Float[np.ndarray, "Q N"], gain: Float[np.ndarray, "Q N"], size: Int[np.ndarray, " Q"]
) -> tuple[Float[np.ndarray, " Q"], Float[np.ndarray, " Q"]]:
    """nDCG of each query, and its expectation under a random order."""
    ranks = np.arange(1, gain.shape[1] + 1)
    best = -np.sort(-gain, 1)[:, :DEPTH]
    discount = 1 / np.log2(ranks[:DEPTH] + 1)
    ideal = ((2.0**best - 1) * discount).sum(1)
    reached = ((2.0 ** sorted_gain[:, :DEPTH] - 1) * discount).sum(1)
    mean_power = ((2.0**sorted_gain - 1) * (ranks - 1 < size[:, None])).sum(1) / size
    whole_discount = (discount[None] * (ranks[:DEPTH] - 1 < size[:, None])).sum(1)
    expected = mean_power * whole_discount
    return np.where(ideal > 0, reached / ideal, np.nan), np.where(ideal > 0, expected / ideal, np.nan)


@cache
def expected_average_precision(relevant: int, size: int) -> float:
    """Average precision expected of a random order of `size` cases of which `relevant` are relevant; NaN if none is.

    The case at rank i is relevant with probability R/N, and then (i − 1)(R − 1)/(N − 1) of the cases before it are expected
    to be relevant: E = 1/N Σ_i (1 + (i − 1)(R − 1)/(N − 1)) / i.

    >>> expected_average_precision(2, 2)
    1.0
    """
    if relevant == 0 or size == 0:
        return float("nan")
    if size == 1:
        return 1.0
    i = np.arange(1, size + 1)
    return float(((1 + (i - 1) * (relevant - 1) / (size - 1)) / i).mean())
