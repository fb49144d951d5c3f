"""A sub-network under construction, and the random draws that build it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Place = tuple[int, int]  # row and gene of a draft
Pools = tuple[list[Place], list[Place]]  # the genes that move first, then all

_T = TypeVar("_T")


@dataclass
class Draft:
    """A sub-network under construction. `rows` has the genes of each kept layer in the order of `genes_of`, or one row
    that all layers share; `seeds` has one index seed per row. Seeds are None in coarse spaces."""

    layers: list[int]
    n_embd: int
    rows: list[list[int]]
    seeds: list[int | None]
    width_seed: int | None


def pick(values: Sequence[_T], rng: np.random.Generator) -> _T:
    """Draws one element of a sequence uniformly."""
    return values[int(rng.random() * len(values))]


def split(total: int, rows: int, least: int, most: int, rng: np.random.Generator) -> list[float]:
    """Random budgets in least..most, one per row, that sum to `total` (within rows * least..rows * most).

    Uniform draws are raised to a random power and rescaled to the total. The power ranges from nearly equal rows to a
    few rows that take nearly everything. Plain uniform draws would never give a single row a large share of a small
    total, so large genes would hardly ever occur.
    """
    if rows == 1 or least == most:
        return [total / rows] * rows
    share = (total - rows * least) / (rows * (most - least))
    small = min(share, 1 - share)  # at most one half; larger shares are mirrored, so both ends are treated alike
    drawn = rng.random(rows) ** (max(small, 1e-3) ** rng.uniform(-1, 1))
    mean = drawn.mean()
    drawn = drawn * (small / mean) if mean > small else 1 - (1 - drawn) * ((1 - small) / (1 - mean))
    parts = drawn if share == small else 1 - drawn
    return (least + parts * (most - least)).tolist()


def nearest(grid: list[int], value: float) -> int:
    """The entry of an ascending list that is nearest to a value."""
    above = bisect_left(grid, value)
    return min(grid[max(above - 1, 0) : above + 1], key=lambda entry: abs(entry - value))


def shuffled(places: list[Place], rng: np.random.Generator) -> list[Place]:
    return [places[number] for number in rng.permutation(len(places)).tolist()]
