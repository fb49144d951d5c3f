"""Which combinations of a grid belong to `make test`; the others are in `make test-all`."""

from collections.abc import Collection, Iterable
from itertools import combinations, product
from typing import Any

import pytest


def slow(cases: Iterable[Any]) -> list[Any]:
    """These cases, none of them in `make test`."""
    return [pytest.param(*getattr(case, "values", case), marks=pytest.mark.slow) for case in cases]


def grid(*axes: Collection[Any], times: int = 1) -> list[Any]:
    """All combinations, as parameters of a test. Those that are not slow have every value of every axis at least once:
    `times` the longest axis, each the one that adds most values, then most pairs of values."""
    every = list(product(*axes))
    quick: list[tuple[Any, ...]] = []
    values: set[Any] = set()
    pairs: set[Any] = set()

    def news(case: tuple[Any, ...]) -> tuple[int, int]:
        return len({*enumerate(case)} - values), len({*combinations(enumerate(case), 2)} - pairs)

    while len(quick) < min(times * max(map(len, axes)), len(every)):
        quick.append(max((case for case in every if case not in quick), key=news))
        values |= {*enumerate(quick[-1])}
        pairs |= {*combinations(enumerate(quick[-1]), 2)}
    return [pytest.param(*case, marks=[] if case in quick else pytest.mark.slow) for case in every]
