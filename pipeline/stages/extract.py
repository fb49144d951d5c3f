"""Stage extract: a sub-network's weights, or fresh ones in its shape, as a model of its own."""

from pathlib import Path

import numpy as np

from pipeline.artifacts import Recipe
from pipeline.config import Init
from pipeline.models import checkpoint
from pipeline.models.extraction import extract
from pipeline.models.student import initialize
from pipeline.stages import order, prepare, rerank, search
from pipeline.stages.context import Context, Step
from pipeline.subnetwork.value import SubNetwork

STAGE, VERSION = "extract", 1
RANDOM_SUBNETWORK, RANDOM_WEIGHTS = 3, 4  # purposes of the generators


def init_of(context: Context, role: str) -> Init:
    distill = context.config.distill
    return distill.init if role == "student" else distill.control.init


def step(context: Context, role: str) -> Step:
    """`role` is "student" or "control". A control with random weights has the student's shape."""
    config, init = context.config, init_of(context, role)
    drawn = Init.random_subnetwork in (init, config.distill.init) and init != Init.searched
    teacher = prepare.teacher_step(context, config.teacher).recipe
    inputs = {"teacher": teacher.fingerprint, "ordering": order.fingerprint(context)}
    own: dict = {"init": init, "shape": "drawn" if drawn else "searched"}
    if drawn:
        own |= {"space": search.space_part(context), "bin": search.edges(context)}
    else:
        found = rerank.deciding_step(context)
        inputs[found.stage] = found.recipe.fingerprint
    if init != Init.searched:
        own["seed"] = config.seed
    recipe = Recipe(STAGE, VERSION, own, inputs)

    def make(folder: Path) -> None:
        ordering = order.load(context)
        sub = _draw(context) if drawn else rerank.winner(context)
        model = extract(context.teacher(teacher, config.teacher), sub, ordering).float()
        if init == Init.random_weights:
            seed = int(np.random.SeedSequence([config.seed, RANDOM_WEIGHTS]).generate_state(1)[0])
            initialize(model, seed)
        checkpoint.save(model, folder, sub, tokenizer=context.made(teacher))

    return Step(STAGE, f"extracted_{role}", recipe, make)


def _draw(context: Context) -> SubNetwork:
    rng = np.random.default_rng([context.config.seed, RANDOM_SUBNETWORK])
    return context.space(order.load(context)).sample(rng)
