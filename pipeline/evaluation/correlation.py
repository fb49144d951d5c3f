"""Rank correlation: whether one measure of sub-networks ranks them as another does, and how sure that is."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def correlations(
    first: Sequence[float], second: Sequence[float], resamples: int, confidence: float, rng: np.random.Generator
) -> dict[str, dict[str, float | None]]:
    """Spearman's rho and Kendall's tau-b of two measures (n,) of the same things: {name: {"value", "low", "high"}}.

    Ties count as such, and inf as the largest value. The interval is the percentile bootstrap's (Efron and Tibshirani
    1993, 13.3): of `resamples` draws of n pairs with replacement. Draws in which a measure is constant have no
    coefficient and are left out; where nothing is left, or a measure is constant, all three are None.
    """
    from scipy import stats  # imported here: it takes a second, and few runs need it

    pairs = np.array([first, second])
    draws = rng.integers(pairs.shape[1], size=(resamples, pairs.shape[1]))
    found = {}
    coefficients: dict[str, Callable[..., Any]] = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}
    for name, coefficient in coefficients.items():
        spread = [value for draw in draws if (value := _value(coefficient, pairs[:, draw])) is not None]
        if spread:
            tail = (1 - confidence) / 2
            low, high = map(float, np.quantile(spread, [tail, 1 - tail]))
            found[name] = {"value": _value(coefficient, pairs), "low": low, "high": high}
        else:
            found[name] = dict.fromkeys(("value", "low", "high"))
    return found


def _value(coefficient: Callable[..., Any], pairs: np.ndarray) -> float | None:
    if any(len(set(measure)) == 1 for measure in pairs):
        return None
    value = float(coefficient(*pairs).statistic)
    return None if math.isnan(value) else value
