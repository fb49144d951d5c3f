import numpy as np
import pytest

from pipeline.training import order
from pipeline.training.order import block_numbers


def test_every_epoch_holds_every_block_once_in_an_order_of_its_own():
    first, second = np.split(block_numbers(50, 7, 0, 100), 2)
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    assert list(first) != list(range(50))


def test_a_position_is_one_integer():
    whole = block_numbers(50, 7, 0, 120)
    pieces = [block_numbers(50, 7, position, 8) for position in range(0, 120, 8)]
    assert list(whole) == list(np.concatenate(pieces))


def test_seeds_differ():
    assert list(block_numbers(50, 7, 0, 50)) != list(block_numbers(50, 8, 0, 50))


@pytest.mark.parametrize("position, count", [(0, 1), (0, 50), (49, 1), (49, 2), (50, 50), (7, 0), (7, 250), (123, 31)])
def test_numbers_are_numpys_permutations_one_by_one(position, count):
    """The definition, a place at a time: fixed for ever, because checkpoints and caches depend on it."""
    wanted = [
        np.random.default_rng([7, 101, place // 50]).permutation(50)[place % 50]
        for place in range(position, position + count)
    ]
    found = block_numbers(50, 7, position, count)
    assert found.dtype == np.uint32 and found.tolist() == wanted


def test_one_permutation_is_kept_and_takes_four_bytes_a_block():
    order._epoch.cache_clear()
    for position in range(0, 3_000, 8):
        block_numbers(1_000, 7, position, 8)
    assert order._epoch.cache_info().currsize == 1
    # Once an epoch, though batches cross their borders.
    assert order._epoch.cache_info().misses == 3
    assert order._epoch(1_000, 7, 2).nbytes == 4_000
    assert np.shares_memory(order._epoch(1_000, 7, 2), block_numbers(1_000, 7, 2_000, 1_000))
