"""What evaluates the candidates of a search, and the study of its fitness."""

from pipeline.config import SearchConfig
from pipeline.search.evaluator import Evaluator
from pipeline.search.loop import Scorer
from pipeline.stages import order, prepare
from pipeline.stages.context import Context


def scorer(context: Context, config: SearchConfig) -> Scorer:
    """On the calibration blocks of this run, under its ordering."""
    teacher = prepare.teacher_step(context, context.config.teacher).recipe
    tokens = prepare.tokens_step(context).recipe
    return Evaluator(
        context.teacher(teacher, context.config.teacher),
        order.load(context),
        context.evenly(tokens, "calibration", config.blocks, "search.blocks"),
        context.precision,
        config.batch,
        fitness=config.fitness,
        cuts=config.cuts(),
        prefix_bytes=config.prefix_memory << 20,
    )
