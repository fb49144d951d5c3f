"""Stage order: which of the teacher's entries count as the first ones."""

from pathlib import Path

from pipeline.artifacts import Recipe, write_json
from pipeline.config import material
from pipeline.models import ordering
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import layers_flops
from pipeline.subnetwork.selection import Ordering

STAGE, VERSION = "order", 1
COSTS = "costs.json"


def recipe(context: Context, teacher: Recipe, tokens: Recipe) -> Recipe:
    return Recipe(
        STAGE,
        VERSION,
        material(context.config.ordering) | {"precision": context.precision},
        {"teacher": teacher.fingerprint, "tokens": tokens.fingerprint},
    )


def make(context: Context, recipe: Recipe, folder: Path, teacher: Recipe, tokens: Recipe) -> None:
    config = context.config
    blocks = context.evenly(tokens, "calibration", config.ordering.blocks, "ordering.blocks")
    model = context.teacher(teacher, config.teacher)
    batch = config.ordering.batch
    ordering.save(ordering.importance(model, blocks, context.precision, batch, recipe.fingerprint), folder)
    tokens_seen = blocks[:, 1:].numel()
    write_json(folder / COSTS, {"tokens": tokens_seen, "flops": tokens_seen * flops_of_a_token(context)})


def flops_of_a_token(context: Context) -> int:
    """Activations are measured up to the final norm: the head is not run."""
    return layers_flops(context.architecture, length=context.config.data.block_size)


def memory(context: Context) -> int:
    """Bytes in addition to the teacher and its passes: a sum for all that is ranked, and an output projection's weights
    twice, all in fp64."""
    a = context.architecture
    queries = a.n_head * a.head_size
    mlp = max(a.n_expert, 1) * (a.intermediate_size + 1)
    layer = 1 + a.n_query_groups * (1 + a.head_size) + a.n_head + mlp
    return 8 * (a.n_layer * layer + a.n_embd + 2 * queries * a.n_embd)


def load(context: Context, recipe: Recipe | None) -> Ordering:
    """The ordering of a run; without an artifact, the teacher's own order."""
    if recipe is None:
        return Ordering.identity(context.architecture)
    return ordering.load(context.made(recipe))
