"""Metrics against nested loops and simulated random orders, what is undefined, and how often intervals hold the truth."""

import numpy as np
import pytest

from mmvae.case import Relevance
from mmvae.metrics.estimates import PerPatient, by_patient, estimate, paired, plain, read_estimate, summarise
from mmvae.metrics.relevance import gains, labelled
from mmvae.metrics.scores import METRICS, Scores, expected_average_precision, score

RELEVANCE = (Relevance(3, ("h", "o")), Relevance(2, ("h",)), Relevance(1, ("o",)))


def per_patient(value, chance=None, patients=None):
    """Scores of patients named by number, or as given; the chance is 0 unless given."""
    value = np.asarray(value, float)
    chance = np.zeros_like(value) if chance is None else chance
    names = tuple(f"p{n:04d}" for n in range(len(value))) if patients is None else patients
    return PerPatient(names, Scores(value), Scores(chance))


def loops(distance, gain, allowed, at_least):
    """Each query's five metrics by plain loops."""
    rows = []
    for q in range(len(distance)):
        order = [
            n for n in sorted(range(len(distance[q])), key=lambda n: (distance[q][n], n)) if allowed[q][n]
        ]
        relevant = [gain[q][n] >= at_least for n in order]
        p = [sum(relevant[:k]) / k for k in (1, 5, 10)]
        hits, total = 0, 0.0
        for rank, r in enumerate(relevant, 1):
            if r:
                hits += 1
                total += hits / rank
        ap = total / hits if hits else np.nan
        dcg = lambda g: sum((2**x - 1) / np.log2(i + 2) for i, x in enumerate(g[:10]))  # noqa: E731
        ideal = dcg(sorted((gain[q][n] for n in order), reverse=True))
        rows.append([*p, ap, dcg([gain[q][n] for n in order]) / ideal if ideal else np.nan])
    return np.array(rows)


def random_case(seed, queries=6, archive=17):
    rng = np.random.default_rng(seed)
    gain = rng.choice([0, 0, 1, 2, 3], (queries, archive)).astype(float)
    return rng.random((queries, archive)), gain, rng.random((queries, archive)) > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_plain_loops(seed):
    distance, gain, allowed = random_case(seed)
    value, _ = score(distance, gain, allowed, 2.0)
    np.testing.assert_allclose(value.table, loops(distance, gain, allowed, 2.0), rtol=1e-9)


def test_chance_is_the_mean_over_random_orders():
    _, gain, allowed = random_case(3, 2, 14)
    rng = np.random.default_rng(0)
    many = np.mean([score(rng.random(gain.shape), gain, allowed, 2.0)[0].table for _ in range(6000)], 0)
    _, chance = score(rng.random(gain.shape), gain, allowed, 2.0)
    np.testing.assert_allclose(chance.table, many, atol=0.02)


def test_expected_average_precision_of_a_tiny_archive_by_enumeration():
    from itertools import permutations

    values = []
    for order in permutations([1, 1, 0, 0, 0]):
        hits, total = 0, 0.0
        for rank, r in enumerate(order, 1):
            hits += r
            total += r * hits / rank
        values.append(total / 2)
    assert expected_average_precision(2, 5) == pytest.approx(np.mean(values))


def test_a_missing_label_equals_nothing_not_even_another_missing_one():
    gain = gains([{"h": "a"}, {"o": 1}], [{"h": "a", "o": 1}, {}, {"o": 1}], RELEVANCE)
    assert gain.tolist() == [[2, 0, 0], [1, 0, 1]]
    assert labelled([{"h": "a"}, {"h": "a", "o": 2}], RELEVANCE).tolist() == [False, True]


def test_nothing_relevant_is_null_not_nan():
    value, chance = score(np.ones((1, 3)), np.zeros((1, 3)), np.ones((1, 3), bool), 1.0)
    estimates = summarise(PerPatient(("p",), value, chance))
    assert plain(estimates)["mAP"] == {"value": None, "low": None, "high": None, "chance": None, "n": 0}
    assert estimates["nDCG@10"].value is None
    assert estimates["P@5"].value == 0


def test_the_interval_covers_the_mean_and_shrinks_with_patients():
    rng = np.random.default_rng(0)
    wide = summarise(per_patient(rng.random((20, 5))))["mAP"]
    narrow = summarise(per_patient(rng.random((2000, 5))))["mAP"]
    assert wide.low < wide.value < wide.high
    assert narrow.high - narrow.low < 0.25 * (wide.high - wide.low)


def test_a_paired_difference_uses_the_patients_common_to_both():
    a = per_patient(np.full((2, 5), 0.5), patients=("p", "q"))
    b = per_patient([[0.2] * 5, [0.9] * 5], patients=("q", "r"))
    difference = paired(a, b)["mAP"]
    assert difference.value == pytest.approx(0.3)
    assert difference.n == 1
    assert difference.chance == 0
    apart = per_patient([[0.9] * 5], patients=("s",))
    assert paired(a, apart)["mAP"].n == 0  # nobody in common: undefined, not an error


def test_queries_of_one_patient_count_once():
    value = Scores(np.array([[1.0] * 5, [0.0] * 5, [1.0] * 5]))
    assert by_patient(["p", "p", "q"], value, value).value.mAP.tolist() == [0.5, 1.0]


def test_an_estimate_is_read_as_it_was_written_and_without_a_chance_where_none_was():
    written = summarise(per_patient(np.random.default_rng(0).random((9, 5))))
    assert {name: read_estimate(content) for name, content in plain(written).items()} == written
    assert read_estimate({"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}).chance is None


# ---- coverage of the 95 % interval, by simulation ------------------------------------------------------------------------
#
# The percentile interval of a mean is known to be too narrow with few values: its standard error divides by n, not n - 1,
# and its quantiles are the normal's, not Student's. For symmetric values at n = 30 the two together give a coverage of
# P(|T| < 1.96 sqrt(29 / 30)), T with 29 degrees of freedom: .936; skewness costs up to another two percentage points
# (Efron & Tibshirani 1993, section 13.3). So .91 is asked for at n = 30 and .925 at n = 100. The upper limit is .95 plus
# three binomial standard errors of 1,000 replications (.007 each).

REPLICATIONS = 1000
LIMITS = {30: (0.91, 0.97), 100: (0.925, 0.97)}


def average_precisions(rng, n):
    """Skewed values in [0, 1] as average precisions are, a tenth of them exactly 1: mean .1 + .9 · .8 / 2.8 = .357."""
    return np.where(rng.random(n) < 0.1, 1.0, rng.beta(0.8, 2.0, n))


MEAN = 0.1 + 0.9 * 0.8 / 2.8


def of_one_system(rng, n):
    return estimate(average_precisions(rng, n), np.zeros(n))


def two_systems(rng, n):
    """Two systems that find the same patients hard; the means differ by (2 / 4 - 0.8 / 2.8) / 2."""
    shared = average_precisions(rng, n)
    return (shared + rng.beta(2.0, 2.0, n)) / 2, (shared + rng.beta(0.8, 2.0, n)) / 2


def of_two_systems(rng, n):
    a, b = two_systems(rng, n)
    of_metrics = lambda x: per_patient(np.tile(x[:, None], len(METRICS)))  # noqa: E731
    return paired(of_metrics(a), of_metrics(b))["mAP"]


MEAN_DIFFERENCE = (2 / 4 - 0.8 / 2.8) / 2


def coverage(intervals, true_mean):
    """The share of the intervals that hold the true mean."""
    return np.mean([low <= true_mean <= high for low, high in intervals])


def intervals_of(system, n):
    """The intervals of so many samples of n patients."""
    rng = np.random.default_rng(n)
    return [(e.low, e.high) for e in (system(rng, n) for _ in range(REPLICATIONS))]


@pytest.mark.parametrize("n", LIMITS)
@pytest.mark.parametrize(("system", "true_mean"), [(of_one_system, MEAN), (of_two_systems, MEAN_DIFFERENCE)])
def test_the_95_percent_interval_holds_the_true_mean_about_that_often(system, true_mean, n):
    at_least, at_most = LIMITS[n]
    intervals = intervals_of(system, n)
    assert at_least <= coverage(intervals, true_mean) <= at_most
    # The check finds wrong intervals: half as wide, twice as wide, and those of another mean.
    centre = np.mean(intervals, 1, keepdims=True)
    for factor in (0.5, 2.0):
        assert not at_least <= coverage(centre + factor * (intervals - centre), true_mean) <= at_most
    assert coverage(intervals, true_mean + 0.1) < at_least


def test_the_simulated_values_have_the_means_that_coverage_is_measured_by():
    rng = np.random.default_rng(0)
    assert average_precisions(rng, 400_000).mean() == pytest.approx(MEAN, abs=0.002)
    a, b = two_systems(rng, 400_000)
    assert (a - b).mean() == pytest.approx(MEAN_DIFFERENCE, abs=0.002)
