"""What evaluates the candidates of a search: this process, or workers beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.config import SearchConfig
from pipeline.models import checkpoint, sources
from pipeline.search.evaluator import Evaluator
from pipeline.search.loop import Scorer
from pipeline.search.workers import Workers
from pipeline.stages import order, prepare
from pipeline.stages.context import Context
from pipeline.subnetwork.selection import Ordering


@contextmanager
def scorer(context: Context, config: SearchConfig) -> Iterator[Scorer]:
    """On the calibration blocks of this run, under its ordering."""
    teacher = prepare.teacher_step(context, context.config.teacher).recipe
    tokens = prepare.tokens_step(context).recipe
    ordering = order.load(context)
    blocks = context.evenly(tokens, "calibration", config.blocks, "search.blocks")
    if config.workers == 1:
        model = context.teacher(teacher, context.config.teacher)
        yield _evaluator(model, ordering, blocks, context.precision, config)
        return
    dtype = sources.DTYPES[context.config.teacher.dtype]
    facts = context.made(teacher), dtype, context.device.type, ordering, blocks.numpy(), context.precision, config
    workers = Workers(config.workers, partial(_of_a_worker, *facts))
    try:
        yield workers
    finally:
        workers.close()


def _of_a_worker(
    folder: Path,
    dtype: torch.dtype,
    device: str,
    ordering: Ordering,
    blocks: np.ndarray,
    precision: str,
    config: SearchConfig,
    number: int,
) -> Evaluator:
    if device == "cuda":
        device = f"cuda:{number % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    teacher = checkpoint.load(folder, device, dtype).eval().requires_grad_(False)
    return _evaluator(teacher, ordering, torch.from_numpy(blocks), precision, config)


def _evaluator(teacher, ordering: Ordering, blocks: torch.Tensor, precision: str, config: SearchConfig) -> Evaluator:
    return Evaluator(
        teacher,
        ordering,
        blocks,
        precision,
        config.batch,
        fitness=config.fitness,
        cuts=config.cuts(),
        prefix_bytes=config.prefix_memory << 20,
    )
