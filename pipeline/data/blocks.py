"""Fixed blocks of tokens out of one memory-mapped file a split."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import SprigError

SPLITS = ("train", "validation", "calibration")
INDEX = "index.json"
_COUNTED = 1 << 24  # tokens that are read at one time


class Blocks:
    """The blocks of one split ("train", "validation" or "calibration") of a prepared text.

    Block i holds the tokens i*T .. i*T+T of the split's file: T+1 tokens, T = `block_size` targets, stride T.
    """

    def __init__(self, folder: Path, split: str):
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self.block_size: int = index["block_size"]
        self.vocab_size: int = index["vocab_size"]
        self.split = split
        self._tokens = np.memmap(folder / f"{split}.bin", dtype=index["dtype"], mode="r")

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self.block_size

    def take(self, numbers: Sequence[int] | np.ndarray) -> torch.Tensor:
        """The blocks of these numbers, (n, T + 1) int64, in the order given. Raises IndexError out of range."""
        starts = np.asarray(numbers, dtype=np.int64)
        if starts.size and not 0 <= starts.min() <= starts.max() < len(self):
            raise IndexError(f"Blocks {starts.min()}..{starts.max()} of the {self.split} split's {len(self)}.")
        positions = starts[:, None] * self.block_size + np.arange(self.block_size + 1)
        return torch.from_numpy(self._tokens[positions].astype(np.int64))

    def counts(self, entries: int) -> np.ndarray:
        """How often the split has each token, (entries,)."""
        parts = range(0, len(self._tokens), _COUNTED)
        return sum(
            (np.bincount(self._tokens[start : start + _COUNTED], minlength=entries) for start in parts),
            np.zeros(entries, np.int64),
        )

    def evenly(self, count: int) -> torch.Tensor:
        """`count` blocks evenly spaced over the split, (count, T + 1) int64, always the same.

        Raises:
            SprigError: the split has fewer blocks, or none are wanted.
        """
        if not isinstance(count, int | np.integer) or count < 1:
            raise SprigError(f"{count} blocks were requested from the {self.split} split: give a whole number from 1.")
        if count > len(self):
            more = "" if self.split == "train" else f" raise data.{self.split},"
            raise SprigError(
                f"{count} blocks were requested from the {self.split} split, which has {len(self)} of "
                f"{self.block_size} tokens: ask for fewer,{more} or give more text."
            )
        return self.take(np.arange(count) * len(self) // count)
