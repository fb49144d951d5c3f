"""In which order blocks are trained on: a seeded permutation per epoch, so that a position is one integer."""

from functools import lru_cache

import numpy as np

_PURPOSE = 101  # keeps this draw apart from every other draw of the same seed


@lru_cache(maxsize=1)  # positions ascend, and a permutation of 100 billion tokens takes 200 MB
def _epoch(blocks: int, seed: int, epoch: int) -> np.ndarray:
    numbers = np.arange(blocks, dtype=np.uint32 if blocks <= 1 << 32 else np.int64)
    np.random.default_rng([seed, _PURPOSE, epoch]).shuffle(numbers)
    return numbers


def block_numbers(blocks: int, seed: int, position: int, count: int) -> np.ndarray:
    """The numbers (count,) of the blocks at `position`, `position` + 1, ... of the endless sequence of epochs, int64.

    Every epoch holds each of the `blocks` numbers once, in an order of its own.
    """
    numbers, end = np.empty(count, np.int64), position + count
    for epoch in range(position // blocks, -(-end // blocks)):
        start = epoch * blocks
        first, last = max(position, start), min(end, start + blocks)
        numbers[first - position : last - position] = _epoch(blocks, seed, epoch)[first - start : last - start]
    return numbers
