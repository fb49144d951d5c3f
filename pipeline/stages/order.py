"""Stage order: which of the teacher's entries are the first ones."""

from pathlib import Path

from pipeline.artifacts import Recipe, write_json
from pipeline.config import OrderingKind
from pipeline.models import ordering
from pipeline.stages import prepare
from pipeline.stages.context import Context, Step, part
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.selection import Ordering

STAGE, VERSION = "order", 1
COSTS = "costs.json"


def step(context: Context) -> Step | None:
    """None with ordering=none: the teacher's own order needs no artifact."""
    config = context.config
    if config.ordering.kind == OrderingKind.none:
        return None
    teacher = prepare.teacher_step(context, config.teacher).recipe
    tokens = prepare.tokens_step(context).recipe
    recipe = Recipe(
        STAGE,
        VERSION,
        part(config.ordering) | {"precision": context.precision, "batch": config.search.batch},
        {"teacher": teacher.fingerprint, "tokens": tokens.fingerprint},
    )

    def make(folder: Path) -> None:
        blocks = context.evenly(tokens, "calibration", config.ordering.blocks, "ordering.blocks")
        found = ordering.importance(
            context.teacher(teacher, config.teacher), blocks, context.precision, config.search.batch, recipe.fingerprint
        )
        ordering.save(found, folder)
        length = config.data.block_size
        flops = blocks[:, 1:].numel() * flops_per_token(context.architecture, length=length)
        write_json(folder / COSTS, {"tokens": blocks[:, 1:].numel(), "flops": flops})

    return Step(STAGE, "ordering", recipe, make)


def load(context: Context) -> Ordering:
    """The ordering of this run."""
    order = step(context)
    if order is None:
        return Ordering.identity(context.architecture)
    return ordering.load(context.made(order.recipe))
