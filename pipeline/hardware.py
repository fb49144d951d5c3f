"""The names of what a measurement was taken on, and what is asked of its memory."""

import ctypes
import platform
from pathlib import Path


def processor() -> str:
    """The CPU's name as its maker gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def give_back_memory() -> None:
    """Returns the freed memory that malloc keeps to the system, if the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
