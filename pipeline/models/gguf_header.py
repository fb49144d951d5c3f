"""What a GGUF file says about itself, in a tenth of a second.

The gguf package's own reader makes numpy views of each of a vocabulary's 100,000 strings, which takes seconds of every
run; this follows the format's specification (ggml's docs/gguf.md) instead, and the tests hold it to the package's.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pipeline.errors import SprigError

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. `shape` is torch's order (rows first), `start` and `size` are in bytes of the file."""

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size: int

    def values(self, path: Path) -> np.ndarray:
        """The floats that the stored numbers stand for, fp32, of `shape`.

        Raises:
            SprigError: the gguf package cannot dequantise this kind.
        """
        stored = np.memmap(path, np.uint8, "r", self.start, gguf.quant_shape_to_byte_shape(self.shape, self.kind))
        try:
            return gguf.dequantize(stored, self.kind)
        except NotImplementedError:
            raise SprigError(
                f"{path} holds tensors of kind {self.kind.name}, unreadable here: use another file."
            ) from None


@dataclass(frozen=True)
class Header:
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: Path) -> Header:
    """All metadata, and where each tensor lies.

    Raises:
        SprigError: the file is cut short, or no GGUF file of version 2 or 3.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            header = _Cursor(content).header()
        needed = max((tensor.start + tensor.size for tensor in header.tensors.values()), default=0)
        if needed > size:
            raise ValueError(f"its tensors end at byte {needed:,}")
    except (ValueError, KeyError, struct.error) as error:
        raise SprigError(
            f"{path} ({size:,} bytes) is cut short or no GGUF file ({error}): fetch it again, or correct teacher.path."
        ) from None
    return header


class _Cursor:
    def __init__(self, content: mmap.mmap):
        self.content, self.position = content, 0

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
        tensor_count, entry_count = self.scalar("Q"), self.scalar("Q")
        metadata = {}
        for _ in range(entry_count):
            key = self.string()
            metadata[key] = self.value(self.scalar("I"))
        infos = {}
        for _ in range(tensor_count):
            name = self.string()
            shape = tuple(self.scalar("Q") for _ in range(self.scalar("I")))[::-1]
            infos[name] = (shape, gguf.GGMLQuantizationType(self.scalar("I")), self.scalar("Q"))
        alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        data = -(-self.position // alignment) * alignment
        tensors = {}
        for name, (shape, kind, offset) in infos.items():
            block_entries, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            size = int(np.prod(shape)) // block_entries * block_bytes
            tensors[name] = StoredTensor(shape, kind, data + offset, size)
        return Header(metadata, tensors)
