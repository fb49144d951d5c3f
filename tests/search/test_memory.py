"""Freed tensors are given back to the system: what glibc says of its own memory."""

import ctypes

import pytest
import torch

from pipeline.search.memory import given_back

MALLINFO = getattr(ctypes.CDLL(None), "mallinfo2", None)


class Info(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [("before", ctypes.c_size_t * 4), ("hblkhd", ctypes.c_size_t), ("after", ctypes.c_size_t * 5)]


def mapped() -> int:
    """Bytes that lie outside malloc's heap, each block in a mapping of its own."""
    MALLINFO.restype = Info
    return MALLINFO().hblkhd


def mapped_by_tensors() -> int:
    """Of 200 tensors of 2 MiB, never touched; holes that the heap has already take some of them."""
    before = mapped()
    tensors = [torch.empty(2 << 20, dtype=torch.uint8) for _ in range(200)]
    grown = mapped() - before
    del tensors
    assert mapped() == before
    return grown


@pytest.mark.skipif(MALLINFO is None, reason="glibc's own")
def test_tensors_are_mapped_by_themselves_only_while_a_search_runs():
    with given_back():
        assert mapped_by_tensors() > 200 << 20
    assert mapped_by_tensors() == 0
