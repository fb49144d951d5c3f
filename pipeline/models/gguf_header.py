"""What a GGUF file says about itself, in a tenth of a second.

The gguf package's own reader makes numpy views of each of a vocabulary's 100,000 strings, which takes seconds of every
run; this follows the format's specification (ggml's docs/gguf.md) instead, and the tests hold it to the package's.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import SprigError

if TYPE_CHECKING:  # imported where a file is read: few runs have one
    import gguf

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DIMENSIONS = 4  # at most, in ggml


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. `shape` is torch's order (rows first), `start` and `size` are in bytes of the file."""

    path: Path
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size: int

    def values(self) -> np.ndarray:
        """The floats that the stored numbers stand for, fp32, of `shape`.

        Raises:
            SprigError: the gguf package cannot dequantise this kind.
        """
        import gguf

        stored = np.memmap(self.path, np.uint8, "r", self.start, gguf.quant_shape_to_byte_shape(self.shape, self.kind))
        try:
            return gguf.dequantize(stored, self.kind)
        except NotImplementedError:
            raise SprigError(
                f"{self.path} holds tensors of kind {self.kind.name}, unreadable here: use another file."
            ) from None


@dataclass(frozen=True)
class Header:
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """All metadata of one file, and where each tensor lies.

    Raises:
        SprigError: the file is cut short, or no GGUF file of version 2 or 3.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            header = _Cursor(content, path).header()
        needed = max((tensor.start + tensor.size for tensor in header.tensors.values()), default=0)
        if needed > size:
            raise ValueError(f"its tensors end at byte {needed:,}")
    except (ValueError, KeyError, struct.error, OverflowError, RecursionError, MemoryError) as error:
        raise SprigError(
            f"{path} ({size:,} bytes) is truncated or not a GGUF file ({error}): fetch it again, or correct "
            "teacher.path."
        ) from None
    return header


class _Cursor:
    def __init__(self, content: mmap.mmap, path: Path):
        self.content, self.path, self.position = content, path, 0

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def string(self) -> str:
        start = self.position + 8
        self.position = start + self.scalar("Q")
        if self.position > len(self.content):
            raise ValueError(f"a text ends at byte {self.position:,}")
        return self.content[start : self.position].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(_SCALARS[kind])

    def header(self) -> Header:
        if self.content[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self.position = 4
        if (version := self.scalar("I")) not in (2, 3):
            raise ValueError(f"its version is {version}")
        import gguf

        tensor_count, entry_count = self.scalar("Q"), self.scalar("Q")
        metadata = {}
        for _ in range(entry_count):
            key = self.string()
            if key in metadata:
                raise ValueError(f"it says {key} twice")
            metadata[key] = self.value(self.scalar("I"))
        infos = [self._info() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"its alignment is {alignment!r:.40}")
        data = -(-self.position // alignment) * alignment
        tensors = {name: self._tensor(name, shape, kind, data + offset) for name, shape, kind, offset in infos}
        if len(tensors) < len(infos):
            raise ValueError("it names a tensor twice")
        return Header(metadata, tensors)

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, kind, and offset from where the tensors begin."""
        name, dimensions = self.string(), self.scalar("I")
        if dimensions > _DIMENSIONS:
            raise ValueError(f"{name!r:.80} has {dimensions} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        return name, shape, self.scalar("I"), self.scalar("Q")

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, start: int) -> StoredTensor:
        import gguf

        kind = gguf.GGMLQuantizationType(number)
        entries, bytes_each = gguf.GGML_QUANT_SIZES[kind]
        if not shape or min(shape) < 1 or shape[-1] % entries:
            raise ValueError(f"{name!r:.80} has shape {shape}, which {kind.name} cannot store")
        return StoredTensor(self.path, shape, kind, start, math.prod(shape) // entries * bytes_each)
