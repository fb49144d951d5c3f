"""From tokenised shards to one file a split, without a second copy of the tokens on disk.

A shard is removed once its documents are in the splits' files. What was packed is written down before, so that a
killed packing resumes: it cuts the files back to that, and goes through the shards that are left.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.artifacts import write_json
from pipeline.data import shards
from pipeline.data.blocks import SPLITS
from pipeline.progress import Progress

GROUP = 16  # shards that are packed between two points at which everything is on disk
MEMBERS, PACKED = "members.npz", "packed.json"


@dataclass(frozen=True)
class Members:
    """Which split each document belongs to, (n,) as a number of SPLITS, and how many shards hold them."""

    belongs: np.ndarray
    shards: int

    def save(self, folder: Path) -> None:
        shards.write_arrays(folder / MEMBERS, belongs=self.belongs.astype(np.uint8), shards=np.array(self.shards))

    @classmethod
    def load(cls, folder: Path) -> "Members | None":
        """None if they have not been decided yet."""
        if not (folder / MEMBERS).exists():
            return None
        with np.load(folder / MEMBERS) as saved:
            return cls(saved["belongs"], int(saved["shards"]))


def pack(members: Members, dtype: np.dtype, folder: Path, scratch: Path) -> dict[str, int]:
    """Writes each split's file: its documents' ids in reading order, joined by the end-of-text token.

    Args:
        folder: where the files are written.
        scratch: where the shards are, and where it is written down how many are packed.

    Returns:
        The tokens of each split.
    """
    packed = json.loads((scratch / PACKED).read_text()) if (scratch / PACKED).exists() else None
    packed = packed or {"shards": 0, "documents": 0, "bytes": [0] * len(SPLITS)}
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.bin").open("ab")) for name in SPLITS]
        for file, size in zip(files, packed["bytes"], strict=True):
            file.truncate(size)
        progress = stack.enter_context(Progress("pack", members.shards, "shards", start=packed["shards"]))
        while packed["shards"] < members.shards:
            group = range(packed["shards"], min(packed["shards"] + GROUP, members.shards))
            packed = _packed(members, group, packed["documents"], files, scratch)
            progress.advance(len(group))
    tokens = {}
    for name, size in zip(SPLITS, packed["bytes"], strict=True):
        # End-of-text joins documents: there is none after the last one.
        os.truncate(folder / f"{name}.bin", size - dtype.itemsize)
        tokens[name] = size // dtype.itemsize - 1
    return tokens


def _packed(members: Members, group: range, document: int, files: Sequence[BinaryIO], scratch: Path) -> dict[str, Any]:
    """Packs some shards, of which the first begins with this document, and removes them; how far packing is."""
    paths = [shards.shard(scratch, number) for number in group]
    for path in paths:
        ids, lengths = shards.tokens_of(path)
        belongs = members.belongs[document : document + len(lengths)]  # fewer in the shard that reached max_tokens
        document += len(belongs)
        split = np.repeat(belongs, lengths[: len(belongs)])
        for number, file in enumerate(files):
            file.write(ids[: len(split)][split == number].tobytes())
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    packed = {"shards": group.stop, "documents": document, "bytes": [file.tell() for file in files]}
    write_json(scratch / PACKED, packed)
    for path in paths:
        path.unlink()
    return packed
