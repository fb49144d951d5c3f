"""From tokenised shards to one file a split, without a second copy of the tokens on disk.

A shard is removed once its documents are in the splits' files. What was packed is written down before, so that a
killed packing resumes: it cuts the files back to that, and goes through the shards that are left.
"""

import json
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.artifacts import digest, write_json
from pipeline.data import shards
from pipeline.data.arrays import Damaged, arrays_of, write_arrays
from pipeline.data.blocks import SPLITS
from pipeline.progress import Progress

GROUP = 16  # shards that are packed between two points at which everything is on disk
MEMBERS, PACKED = "members.npz", "packed.json"
_DIGEST = "digest"  # in packed.json, of the rest of it; earlier versions of Sprig wrote neither this nor crc32


@dataclass(frozen=True)
class Members:
    """Which split each document belongs to, (n,) as a number of SPLITS, and how many shards hold them."""

    belongs: np.ndarray
    shards: int

    def save(self, folder: Path) -> None:
        write_arrays(folder / MEMBERS, belongs=self.belongs.astype(np.uint8), shards=np.array(self.shards))

    @classmethod
    def load(cls, folder: Path) -> "Members | None":
        """None if they have not been decided yet.

        Raises:
            Damaged: the file is not what was written.
        """
        if not (folder / MEMBERS).exists():
            return None
        belongs, number = arrays_of(folder / MEMBERS, "belongs", "shards")
        return cls(belongs, int(number))


@dataclass(frozen=True)
class Packed:
    """How far packing is: shards, their documents, and for each split's file its `bytes` and the `crc32` of all of them
    but the last token, which the end of packing cuts off."""

    shards: int = 0
    documents: int = 0
    bytes: tuple[int, ...] = (0,) * len(SPLITS)
    crc32: tuple[int, ...] | None = (0,) * len(SPLITS)

    @classmethod
    def load(cls, members: Members, dtype: np.dtype, folder: Path, scratch: Path) -> "Packed":
        """How far an interrupted packing was; nowhere, where there is none.

        Raises:
            Damaged: the file or a split's is not what was written. The shards that were packed have to be made again.
        """
        if not (scratch / PACKED).exists():
            return cls()
        try:
            content = json.loads((scratch / PACKED).read_text(encoding="utf-8"))
            wanted = content.pop(_DIGEST, None)
            if wanted not in (None, digest(content)):
                raise ValueError("it was changed")
            found = cls(**{"crc32": None} | content)
            for name, size, crc32 in zip(SPLITS, found.bytes, found.crc32 or [None] * len(SPLITS), strict=True):
                _check(folder / f"{name}.bin", size, crc32, dtype.itemsize, found.shards == members.shards)
        except (ValueError, TypeError, AttributeError, FileNotFoundError) as error:
            for name in (PACKED, MEMBERS):
                (scratch / name).unlink(missing_ok=True)
            raise Damaged(scratch / PACKED, error) from error
        return found


def _check(path: Path, size: int, crc32: int | None, token: int, ended: bool) -> None:
    """Raises ValueError where a split's file does not begin with what was packed; `ended`: its last token may be cut
    off."""
    with path.open("rb") as file:
        there, before = os.fstat(file.fileno()).st_size, max(size - token, 0)
        if there < size and not (ended and there == before):
            raise ValueError(f"{path.name} has {there:,} bytes, not {size:,}")
        if crc32 is not None and _crc32(file, 0, before) != crc32:
            raise ValueError(f"{path.name} was changed")


def _crc32(file: BinaryIO, begin: int, end: int, value: int = 0) -> int:
    """Of a part of a file, after `value`, that of what is before it."""
    while begin < end and (content := os.pread(file.fileno(), min(end - begin, 1 << 22), begin)):
        value, begin = zlib.crc32(content, value), begin + len(content)
    return value


def pack(members: Members, dtype: np.dtype, folder: Path, scratch: Path) -> dict[str, int]:
    """Writes each split's file: its documents' ids in reading order, joined by the end-of-text token.

    Args:
        folder: where the files are written.
        scratch: where the shards are, and where it is written down how many are packed.

    Returns:
        The tokens of each split.

    Raises:
        Damaged: a file in `scratch` or a split's is not what was written, and was removed.
    """
    packed = Packed.load(members, dtype, folder, scratch)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.bin").open("a+b")) for name in SPLITS]
        for file, size in zip(files, packed.bytes, strict=True):
            file.truncate(size)
        progress = stack.enter_context(Progress("pack", members.shards, "shards", start=packed.shards))
        while packed.shards < members.shards:
            before, packed = packed, _packed(members, packed, files, scratch, dtype.itemsize)
            progress.advance(packed.shards - before.shards)
    tokens = {}
    for name, size in zip(SPLITS, packed.bytes, strict=True):
        # End-of-text joins documents: there is none after the last one.
        os.truncate(folder / f"{name}.bin", size - dtype.itemsize)
        tokens[name] = size // dtype.itemsize - 1
    return tokens


def _packed(members: Members, before: Packed, files: Sequence[BinaryIO], scratch: Path, token: int) -> Packed:
    """Packs some more shards, and removes them; how far packing is."""
    group, document = range(before.shards, min(before.shards + GROUP, members.shards)), before.documents
    paths = [shards.shard(scratch, number) for number in group]
    for path in paths:
        ids, lengths = _tokens_of(path, scratch)
        belongs = members.belongs[document : document + len(lengths)]  # fewer in the shard that reached max_tokens
        document += len(belongs)
        split = np.repeat(belongs, lengths[: len(belongs)])
        for number, file in enumerate(files):
            file.write(ids[: len(split)][split == number].tobytes())
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    sizes, crc32 = tuple(file.tell() for file in files), None
    if before.crc32 is not None:
        parts = zip(files, before.bytes, sizes, before.crc32, strict=True)
        crc32 = tuple(_crc32(file, max(old - token, 0), max(new - token, 0), value) for file, old, new, value in parts)
    packed = Packed(group.stop, document, sizes, crc32)
    write_json(scratch / PACKED, vars(packed) | {_DIGEST: digest(vars(packed))})
    for path in paths:
        path.unlink()
    return packed


def _tokens_of(path: Path, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return shards.tokens_of(path)
    except Damaged:
        (scratch / MEMBERS).unlink(missing_ok=True)  # without them, the shards that are missing are made again
        raise
