import threading

import pytest

from pipeline.training.prefetch import prefetched


def test_order_and_one_read_ahead():
    begun, main = [], threading.get_ident()

    def read(number):
        begun.append((number, threading.get_ident() != main))
        return number * 10

    seen = []
    for number, value in prefetched(read, range(3, 7)):
        assert value == number * 10 and len(begun) <= len(seen) + 2
        seen.append(number)
    assert seen == [3, 4, 5, 6] and begun == [(number, True) for number in seen]
    assert list(prefetched(read, range(0))) == []


def test_an_error_comes_in_its_turn():
    def read(number):
        if number == 2:
            raise ValueError("torn")
        return number

    seen = []
    with pytest.raises(ValueError, match="torn"):
        for number, _ in prefetched(read, range(5)):
            seen.append(number)
    assert seen == [0, 1]
