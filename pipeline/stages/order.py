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
        part(config.ordering) | {"precision": context.precision},
        {"teacher": teacher.fingerprint, "tokens": tokens.fingerprint},
    )

    def make(folder: Path) -> None:
        blocks = context.evenly(tokens, "calibration", config.ordering.blocks, "ordering.blocks")
        model = context.teacher(teacher, config.teacher)
        batch = config.ordering.batch
        ordering.save(ordering.importance(model, blocks, context.precision, batch, recipe.fingerprint), folder)
        tokens_seen = blocks[:, 1:].numel()
        write_json(folder / COSTS, {"tokens": tokens_seen, "flops": tokens_seen * flops_of_a_token(context)})

    return Step(STAGE, "ordering", recipe, make)


def flops_of_a_token(context: Context) -> int:
    """Activations are measured up to the final norm: the head is not run."""
    a = context.architecture
    return flops_per_token(a, length=context.config.data.block_size) - 2 * a.padded_vocab_size * a.n_embd


def fingerprint(context: Context) -> str:
    """What sub-networks of this run carry: the ordering's fingerprint, or "none"."""
    order = step(context)
    return "none" if order is None else order.recipe.fingerprint


def load(context: Context) -> Ordering:
    """The ordering of this run."""
    order = step(context)
    if order is None:
        return Ordering.identity(context.architecture)
    return ordering.load(context.made(order.recipe))
