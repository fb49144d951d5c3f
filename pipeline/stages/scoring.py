"""What evaluates the candidates of a search: this process, workers beside it, or all processes of torchrun."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.config import SearchConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.preemption import deferred
from pipeline.ranks import world_size
from pipeline.search.evaluator import Evaluator
from pipeline.search.loop import Scorer
from pipeline.search.ranks import Ranks
from pipeline.search.workers import Workers
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.selection import Ordering
from pipeline.training import distributed


def check(context: Context) -> None:
    """Raises SprigError where workers and ranks are asked for at the same time."""
    workers = context.config.search.workers
    if workers > 1 and world_size() > 1:
        raise SprigError(
            f"search.workers={workers}, but {world_size()} processes were started, which all evaluate: set "
            "search.workers=1, or start one process."
        )


@contextmanager
def scorer(context: Context, config: SearchConfig, roots: Roots) -> Iterator[Scorer]:
    """On the calibration blocks of this run, under its ordering. Under several ranks it is rank 0's, while the others
    `serve`."""
    if world_size() == 1:
        with _of_this_machine(context, config, roots) as own:
            yield own
        return
    with _of_all_ranks(context, config, roots) as ranks:
        try:
            yield ranks
        finally:
            ranks.close()


def serve(context: Context, config: SearchConfig, roots: Roots) -> None:
    """Evaluates for rank 0 until its search is over."""
    with _of_all_ranks(context, config, roots) as ranks:
        ranks.serve()


@contextmanager
def _of_all_ranks(context: Context, config: SearchConfig, roots: Roots) -> Iterator[Ranks]:
    distributed.start(context.device)
    with _of_this_machine(context, config, roots) as own, deferred() as signalled:
        yield Ranks(own, distributed.objects(), signalled)


@contextmanager
def _of_this_machine(context: Context, config: SearchConfig, roots: Roots) -> Iterator[Scorer]:
    ordering = order.load(context, roots.ordering)
    blocks = context.evenly(roots.tokens, "calibration", config.blocks, "search.blocks")
    if config.workers == 1:
        model = context.teacher(roots.teacher, context.config.teacher)
        yield _evaluator(model, ordering, blocks, context.precision, config)
        return
    dtype = sources.DTYPES[context.config.teacher.dtype]
    facts = context.made(roots.teacher), dtype, context.device.type, ordering, blocks.numpy(), context.precision, config
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
