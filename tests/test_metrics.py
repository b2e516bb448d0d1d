"""Metrics against nested loops, simulated random orders, and what is undefined."""

import numpy as np
import pytest

from mmvae.metrics.estimates import PerPatient, by_patient, paired, summarise
from mmvae.metrics.relevance import gains, labelled
from mmvae.metrics.scores import METRICS, expected_average_precision, score

RELEVANCE = ({"gain": 3, "same": ["h", "o"]}, {"gain": 2, "same": ["h"]}, {"gain": 1, "same": ["o"]})


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
    np.testing.assert_allclose(value, loops(distance, gain, allowed, 2.0), rtol=1e-9)


def test_chance_is_the_mean_over_random_orders():
    _, gain, allowed = random_case(3, 2, 14)
    rng = np.random.default_rng(0)
    many = np.mean([score(rng.random(gain.shape), gain, allowed, 2.0)[0] for _ in range(6000)], 0)
    _, chance = score(rng.random(gain.shape), gain, allowed, 2.0)
    np.testing.assert_allclose(chance, many, atol=0.02)


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
    got = gains([{"h": "a"}, {"o": 1}], [{"h": "a", "o": 1}, {}, {"o": 1}], RELEVANCE)
    assert got.tolist() == [[2, 0, 0], [1, 0, 1]]
    assert labelled([{"h": "a"}, {"h": "a", "o": 2}], RELEVANCE).tolist() == [False, True]


def test_nothing_relevant_is_null_not_nan():
    value, chance = score(np.ones((1, 3)), np.zeros((1, 3)), np.ones((1, 3), bool), 1.0)
    made = summarise(value, chance)
    assert made["mAP"]["value"] is None
    assert made["nDCG@10"]["value"] is None
    assert made["P@5"]["value"] == 0


def test_the_interval_covers_the_mean_and_shrinks_with_patients():
    rng = np.random.default_rng(0)
    wide = summarise(rng.random((20, 5)), np.zeros((20, 5)))["mAP"]
    narrow = summarise(rng.random((2000, 5)), np.zeros((2000, 5)))["mAP"]
    assert wide["low"] < wide["value"] < wide["high"]
    assert narrow["high"] - narrow["low"] < 0.25 * (wide["high"] - wide["low"])


def test_a_paired_difference_uses_the_patients_common_to_both():
    a = PerPatient(("p", "q"), np.full((2, 5), 0.5), np.zeros((2, 5)))
    b = PerPatient(("q", "r"), np.array([[0.2] * 5, [0.9] * 5]), np.zeros((2, 5)))
    made = paired(a, b)["mAP"]
    assert made["value"] == pytest.approx(0.3)
    assert made["n"] == 1
    assert made["chance"] == 0


def test_queries_of_one_patient_count_once():
    value = np.array([[1.0] * 5, [0.0] * 5, [1.0] * 5])
    assert by_patient(["p", "p", "q"], value, value).value[:, METRICS.index("mAP")].tolist() == [0.5, 1.0]
