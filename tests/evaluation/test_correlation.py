"""Rank correlations against figures made by hand, and their intervals against scipy's own bootstrap."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.correlation import correlations


def found(first, second, resamples=200, confidence=0.9):
    return correlations(first, second, resamples, confidence, np.random.default_rng(0))


def test_by_hand():
    first, second = [10.0, 20.0, 30.0, 40.0, 50.0], [1.0, 3.0, 2.0, 5.0, 4.0]
    ranks = found(first, second)
    assert ranks["spearman"]["value"] == pytest.approx(1 - 6 * (0 + 1 + 1 + 1 + 1) / (5 * 24))
    assert ranks["kendall"]["value"] == pytest.approx((8 - 2) / 10)  # two of ten pairs stand the other way round


def test_ties_and_trainings_that_went_astray():
    """tau-b by its definition; two infinite losses are the last, and equal."""
    first, second = [1.0, 2.0, 2.0, 3.0, 4.0], [0.5, 0.4, 0.7, math.inf, math.inf]
    signs = [
        (np.sign(first[j] - first[i]), 0 if second[i] == second[j] else 1 if second[j] > second[i] else -1)
        for i, j in combinations(range(5), 2)
    ]
    both, own = sum(a * b for a, b in signs), [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    ranks = found(first, second)
    assert ranks["kendall"]["value"] == pytest.approx(both / math.sqrt(own[0] * own[1]))
    of_ranks = np.corrcoef([1, 2.5, 2.5, 4, 5], [2, 1, 3, 4.5, 4.5])[0, 1]
    assert ranks["spearman"]["value"] == pytest.approx(of_ranks)
    assert all(-1 <= each["low"] <= each["value"] <= each["high"] <= 1 for each in ranks.values())


def test_the_interval_is_the_percentile_bootstrap_of_pairs():
    rng = np.random.default_rng(1)
    first = rng.normal(size=30)
    second = first + rng.normal(size=30)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=800,
        confidence_level=0.9,
        method="percentile",
        rng=2,
    ).confidence_interval
    ours = found(list(first), list(second), resamples=800)["spearman"]
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs), abs=0.05)
    assert found(list(first), list(second), 50) == found(list(first), list(second), 50)


def test_a_constant_measure_ranks_nothing():
    assert found([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])["kendall"] == {"value": None, "low": None, "high": None}
