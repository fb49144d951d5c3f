"""In which order blocks are trained on: a seeded permutation per epoch, so that a position is one integer."""

from functools import lru_cache

import numpy as np

_PURPOSE = 101  # keeps this draw apart from every other draw of the same seed


@lru_cache(maxsize=2)
def _epoch(blocks: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, _PURPOSE, epoch]).permutation(blocks)


def block_numbers(blocks: int, seed: int, position: int, count: int) -> np.ndarray:
    """The numbers (count,) of the blocks at `position`, `position` + 1, ... of the endless sequence of epochs.

    Every epoch holds each of the `blocks` numbers once, in an order of its own.
    """
    places = np.arange(position, position + count)
    return np.array([_epoch(blocks, seed, int(place // blocks))[place % blocks] for place in places])
