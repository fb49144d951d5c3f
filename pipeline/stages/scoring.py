"""What evaluates the candidates of a search: this process, or all processes of torchrun."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config import SearchConfig
from pipeline.preemption import deferred
from pipeline.ranks import world_size
from pipeline.search.evaluator import Evaluator
from pipeline.search.loop import Scorer
from pipeline.search.ranks import Ranks
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.training import distributed


@contextmanager
def scorer(context: Context, config: SearchConfig, roots: Roots) -> Iterator[Scorer]:
    """On the calibration blocks of this run, under its ordering. Under several ranks it is rank 0's, while the others
    `serve`."""
    if world_size() == 1:
        yield _of_this_process(context, config, roots)
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
    own = _of_this_process(context, config, roots)
    with deferred() as signalled:
        yield Ranks(own, distributed.objects(), signalled)


def _of_this_process(context: Context, config: SearchConfig, roots: Roots) -> Evaluator:
    ordering = order.load(context, roots.ordering)
    blocks = context.evenly(roots.tokens, "calibration", config.blocks, "search.blocks")
    return Evaluator(
        context.teacher(roots.teacher, context.config.teacher),
        ordering,
        blocks,
        context.precision,
        config.batch,
        fitness=config.fitness,
        compiled=context.config.distill.compile and context.device.type == "cuda",
    )
