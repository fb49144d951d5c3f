"""What the next step needs is read while this one runs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(read: Callable[[int], T], numbers: range) -> Iterator[tuple[int, T]]:
    """(number, read(number)) in order, one read ahead in a thread of its own. An error of `read` comes in its turn."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as reader:
        ahead = [reader.submit(read, number) for number in numbers[:1]]
        for number in numbers:
            ready = ahead.pop().result()
            if number != numbers[-1]:
                ahead.append(reader.submit(read, number + numbers.step))
            yield number, ready
