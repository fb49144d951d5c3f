"""In which order blocks are trained on: a seeded permutation per epoch, so that a position is one integer."""

from functools import lru_cache

import numpy as np

_PURPOSE = 101  # keeps this draw apart from every other draw of the same seed


@lru_cache(maxsize=1)  # positions ascend, and a permutation of 100 billion tokens takes 200 MB
def _epoch(blocks: int, seed: int, epoch: int) -> np.ndarray:
    numbers = np.arange(blocks, dtype=np.uint32 if blocks <= 1 << 32 else np.int64)
    np.random.default_rng([seed, _PURPOSE, epoch]).shuffle(numbers)
    numbers.flags.writeable = False  # because callers share it
    return numbers


def block_numbers(blocks: int, seed: int, position: int, count: int) -> np.ndarray:
    """The numbers (count,) of the blocks at `position`, `position` + 1, ... of the endless sequence of epochs.

    They are uint32 if that suffices. If they are all of one epoch, the array is a read-only view of its permutation.
    Every epoch holds each of the `blocks` numbers once, in an order of its own.
    """
    end, parts = position + count, []
    for epoch in range(position // blocks, -(-end // blocks)):
        start = epoch * blocks
        parts.append(_epoch(blocks, seed, epoch)[max(position - start, 0) : end - start])
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint32), *parts])
