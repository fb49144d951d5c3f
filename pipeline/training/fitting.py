"""Training with a micro-batch that fits: where memory runs out it is halved, and the training resumes.

The global batch stays the same, so the result is the same up to rounding.
"""

import gc
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from litgpt import GPT

from pipeline.artifacts import write_json
from pipeline.config import DistillConfig
from pipeline.errors import SprigError
from pipeline.ranks import world_size
from pipeline.training.engine import batching

_FITS = ".micro_batch.json"  # hidden, because it is not part of the result

log = logging.getLogger("sprig")


def fitted(folder: Path, config: DistillConfig, train: Callable[[DistillConfig], GPT]) -> tuple[GPT, int]:
    """What `train` returns, called with smaller and smaller micro-batches until one fits, and that micro-batch.

    `train` resumes from the newest checkpoint in `folder`, where the micro-batch is remembered: a training that is
    started again does not run out of memory again.

    Raises:
        SprigError: one block at a time is too much; or memory ran out on one of several ranks, which cannot be asked
            to begin again together. The same command then starts with the smaller micro-batch.
    """
    wanted = batching(config, world_size()).micro_batch
    micro_batch = _at_most(config, min(wanted, _remembered(folder))) or wanted
    while (trained := _attempt(train, replace(config, micro_batch=micro_batch))) is None:
        smaller = _at_most(config, micro_batch // 2)
        if smaller is None:
            raise SprigError(
                "The device's memory is not enough for a training with distill.micro_batch=1: set "
                "distill.activation_checkpointing=true, and run the same command again; training resumes from its "
                "last checkpoint."
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FITS, smaller)
        if world_size() > 1:
            raise SprigError(
                f"The device's memory is not enough for distill.micro_batch={micro_batch}: run the same command again; "
                f"training resumes from its last checkpoint with distill.micro_batch={smaller}."
            )
        log.warning(
            "Out of memory with distill.micro_batch=%d: training resumes with %d. The global batch stays %d blocks, "
            "so the result is the same up to rounding.",
            micro_batch,
            smaller,
            config.global_batch,
        )
        micro_batch = smaller
    return trained, micro_batch


def _attempt(train: Callable[[DistillConfig], GPT], config: DistillConfig) -> GPT | None:
    """None where the memory ran out; by then, it is free again."""
    try:
        return train(config)
    except torch.OutOfMemoryError:
        pass  # the traceback holds the engine until the handler is left
    gc.collect()  # the engine lies in reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _at_most(config: DistillConfig, micro_batch: int) -> int | None:
    """The largest micro-batch up to this one that divides a rank's share of the global batch; None below 1."""
    share = config.global_batch // world_size()
    return next((each for each in range(micro_batch, 0, -1) if share % each == 0), None)


def _remembered(folder: Path) -> int:
    """Without a limit where nothing was noted, or nothing that can be read: then it is found out again."""
    try:
        return int(json.loads((folder / _FITS).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return 1 << 62
