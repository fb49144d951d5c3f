"""Stage extract: a sub-network's weights, or fresh ones in its shape, as a model of its own."""

import json
from pathlib import Path

import numpy as np
from litgpt import GPT

from pipeline.artifacts import Recipe
from pipeline.config import Init
from pipeline.models import checkpoint
from pipeline.models.extraction import extract
from pipeline.models.student import initialize
from pipeline.stages import order, rerank, search
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.about import About, about
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import ABOUT, SubNetwork

STAGE, VERSION = "extract", 1
RANDOM_SUBNETWORK, RANDOM_WEIGHTS = 3, 4  # purposes of the generators


def roles(context: Context) -> list[str]:
    """The models that a run trains."""
    return ["student", "control"] if context.config.distill.control.enabled else ["student"]


def init_of(context: Context, role: str) -> Init:
    distill = context.config.distill
    return distill.init if role == "student" else distill.control.init


def is_drawn(context: Context, role: str) -> bool:
    """Whether the shape is a random member of the bin, instead of what the search found. A control with random weights
    has the student's shape."""
    init = init_of(context, role)
    return Init.random_subnetwork in (init, context.config.distill.init) and init != Init.searched


def recipe(context: Context, role: str, roots: Roots, found: Recipe | None) -> Recipe:
    """`found` is the search, or its rerank, that the shape comes from; None where it is drawn."""
    init = init_of(context, role)
    inputs = {"teacher": roots.teacher.fingerprint, "ordering": roots.ordering_fingerprint}
    own: dict = {"init": init, "shape": "drawn" if found is None else "searched"}
    if found is None:
        own |= {"space": search.space_part(context), "bin": search.edges(context)}
    else:
        inputs[found.stage] = found.fingerprint
    if init != Init.searched:
        own["seed"] = context.config.seed
    return Recipe(STAGE, VERSION, own, inputs)


def make(context: Context, recipe: Recipe, folder: Path, role: str, roots: Roots, found: Recipe | None) -> None:
    config, ordering = context.config, order.load(context, roots.ordering)
    sub = _draw(context, ordering) if found is None else rerank.winner(context, found)
    drawn = about(config.teacher.name, context.architecture, sub, None)
    noted = drawn if found is None else _noted(context.made(found) / search.WINNER)
    model = extract(context.teacher(roots.teacher, config.teacher), sub, ordering).float()
    if init_of(context, role) == Init.random_weights:
        seed = int(np.random.SeedSequence([config.seed, RANDOM_WEIGHTS]).generate_state(1)[0])
        initialize(model, seed)
    checkpoint.save(model, folder, sub, context.made(roots.teacher), noted)


def subnetwork(context: Context, start: Recipe) -> SubNetwork:
    """Which sub-network an extracted or recovered student is."""
    return SubNetwork.from_dict(json.loads((context.made(start) / checkpoint.SUBNETWORK).read_text(encoding="utf-8")))


def save(context: Context, start: Recipe, model: GPT, folder: Path) -> None:
    """Writes a student that was made from `start`, whose tokenizer and notes it keeps."""
    begun = context.made(start)
    checkpoint.save(model, folder, subnetwork(context, start), begun, _noted(begun / checkpoint.SUBNETWORK))


def _noted(file: Path) -> About | None:
    """What the file says about its sub-network; None in files of earlier versions of Sprig."""
    found: About | None = json.loads(file.read_text(encoding="utf-8")).get(ABOUT)
    return found


def _draw(context: Context, ordering: Ordering) -> SubNetwork:
    rng = np.random.default_rng([context.config.seed, RANDOM_SUBNETWORK])
    return context.space(ordering).sample(rng)
