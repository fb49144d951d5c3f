import numpy as np

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
