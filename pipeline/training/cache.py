"""The logits cache: what is kept of a teacher at every token, a record for each block of training text.

A cache is filled before training, by all ranks, with the blocks that the run will read and that no run before it
wrote, each rank in a file of its own, and only read from then on. So teacher and student need not share a device, and
what a student is trained on does not depend on which run filled it: a teacher's pass always has one shape, and a
block's draws follow from its number, so neither order nor batches, ranks or epochs enter. An interrupted fill resumes
with the missing blocks.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from litgpt import GPT

from pipeline.artifacts.records import Damaged, Records, Writer
from pipeline.config import DistillConfig
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.models.head import chunk_tokens
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states
from pipeline.progress import Progress
from pipeline.ranks import rank, world_size
from pipeline.training.cached import Sampled, TopK, decode, distance, encode, token_dtype

RECORDS = "records"  # the folder
PASS_TOKENS = 4096  # of one pass of the teacher, in whole blocks
_CPU_CHUNK_TOKENS = 256
_PURPOSE = 102  # keeps these draws apart from every other draw of the same number
# Two machines round differently and draw a few other ids; another teacher or block is at a multiple of this.
_ROUNDING = 0.1

log = logging.getLogger("sprig")


class LogitsCache:
    """A cache's records as the configured loss reads them, of the blocks of one text under one teacher.

    Args:
        folder: where its records are, or will be.
        key: the fingerprint of all that determines the records.
        vocab_size: of the teacher.
    """

    def __init__(self, folder: Path, key: str, blocks: Blocks, vocab_size: int, config: DistillConfig):
        self.folder, self.blocks, self.vocab_size, self.config = folder, blocks, vocab_size, config
        self.temperatures = config.cache_temperatures
        self.dtype = token_dtype(config.cache, self.temperatures, vocab_size)
        self._layout = (self.dtype.itemsize * blocks.block_size, key)
        self.records = Records(folder / RECORDS, *self._layout)

    def refresh(self) -> None:
        """Takes note of the records that were written meanwhile."""
        self.records.close()
        self.records = Records(self.folder / RECORDS, *self._layout)

    def take(self, numbers: np.ndarray) -> Sampled | TopK:
        """The reference of these blocks' targets, block after block.

        Raises:
            SprigError: a block was never written, or is damaged.
        """
        records = [self._record(int(number)) for number in numbers]
        return decode(np.concatenate(records), self.temperatures, self.config)

    def fill(self, numbers: np.ndarray, teacher: Callable[[], GPT], precision: str) -> None:
        """Adds what is missing of this rank's share of these blocks; the teacher is loaded only where there is some.

        Raises:
            OSError: the disk is full or not writable; what was added stays.
        """
        self.refresh()
        missing = self.records.missing(numbers[rank() :: world_size()]).tolist()
        if not missing:
            return
        model, together = teacher(), self._together
        with (
            Writer(self.folder / RECORDS, str(rank()), *self._layout) as writer,
            Progress("cache", total=len(missing) * self.blocks.block_size, unit="tokens") as progress,
        ):
            for start in range(0, len(missing), together):
                part = missing[start : start + together]
                for number, record in zip(part, self._compute(part, model, precision), strict=True):
                    writer.write(number, record)
                progress.advance(len(part) * self.blocks.block_size)
        self.refresh()

    def check_complete(self, numbers: np.ndarray) -> None:
        """Raises SprigError where these blocks are not all there. Reads none of them."""
        missing = self.records.missing(numbers)
        if len(missing):
            raise SprigError(
                f"Cache {self.folder} lacks {len(missing):,} of {len(numbers):,} blocks of this run, block "
                f"{missing[0]} first, and distill.cache.mode=read: fill one with {self.config.filling}, or lower "
                "distill.tokens."
            )

    def verify(self, numbers: np.ndarray, teacher: GPT, precision: str) -> None:
        """Computes these blocks again and compares.

        Raises:
            SprigError: a block holds something else than this teacher gives.
        """
        same, furthest = 0, 0.0
        for number in map(int, numbers):
            (again,) = self._compute([number], teacher, precision)
            stored = self._record(number)
            same += stored.tobytes() == again
            apart = distance(stored, np.frombuffer(again, self.dtype), self.vocab_size)
            furthest = max(furthest, apart)
            if apart > _ROUNDING:
                raise SprigError(
                    f"Block {number} of cache {self.folder} is {apart:.2f} in total variation from what the teacher "
                    f"gives now, where rounding is below {_ROUNDING}: remove that folder, so that it is filled again."
                )
        log.info(
            "%d blocks of the cache were computed again: %d are identical, total variation at most %.4f.",
            len(numbers),
            same,
            furthest,
        )

    @property
    def _together(self) -> int:
        """Blocks of one pass of the teacher."""
        return max(1, PASS_TOKENS // self.blocks.block_size)

    def _record(self, number: int) -> np.ndarray:
        try:
            record = self.records.read(number)
        except Damaged:
            record = None
        if record is None:
            raise SprigError(
                f"Block {number} of cache {self.folder} is missing or damaged: run the same command again with "
                f"{self.config.filling}, which computes it again."
            )
        return np.frombuffer(record, self.dtype)

    @torch.no_grad()
    def _compute(self, numbers: list[int], teacher: GPT, precision: str) -> list[bytes]:
        """The records of at most `_together` blocks, padded to that many, because kernels round by shape."""
        device, length = teacher.lm_head.weight.device, self.blocks.block_size
        padded = numbers + numbers[-1:] * (self._together - len(numbers))
        tokens = self.blocks.take(np.array(padded)).to(device)
        draws = [np.random.default_rng([_PURPOSE, number]).random((length, 2)) for number in padded]
        uniform = torch.from_numpy(np.concatenate(draws)).to(device)
        rows = chunk_tokens(device, _CPU_CHUNK_TOKENS)
        with autocast(precision, device):
            hidden = hidden_states(teacher, tokens[:, :-1]).flatten(0, 1)
            encoded = [
                encode(teacher.lm_head(states)[:, : self.vocab_size].float(), self.dtype, self.temperatures, points)
                for states, points in zip(hidden.split(rows), uniform.split(rows), strict=True)
            ]
        return [record.tobytes() for record in np.concatenate(encoded).reshape(-1, length)[: len(numbers)]]
