"""Memory of freed tensors, which glibc would keep."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGEST = 32 << 20  # the threshold that glibc adapts to by itself, on 64 bits


@contextmanager
def given_back() -> Iterator[None]:
    """Tensors of a MiB and more, in memory of the processor, are given back to the system when they are freed.

    In malloc's heap, candidates' tensors of ever other sizes among kept hidden states leave gaps that none fits: at 8 x
    512 tokens more than a candidate, and for good. Without glibc nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    mallopt(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
