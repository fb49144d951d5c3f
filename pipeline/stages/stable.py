"""The stable phase of a wsd schedule as an artifact of its own, with the training's whole state at its end.

Its recipe holds all that distillation is but the budget and the decay, so trainings of the same stable phase share it,
and a longer one resumes from a shorter one.
"""

import logging
from pathlib import Path

from pipeline.artifacts import Recipe, Store, digest
from pipeline.config import ScheduleConfig, ScheduleKind
from pipeline.stages.context import Context
from pipeline.training.schedules import decay_start

STAGE, VERSION = "stable", 1

log = logging.getLogger("sprig")


def steps(schedule: ScheduleConfig, budget: int, batch_tokens: int) -> int:
    """Optimizer steps before the decay; 0 where the schedule has no stable phase, or no decay."""
    if schedule.kind != ScheduleKind.wsd or decay_start(schedule, budget) == budget:
        return 0
    return decay_start(schedule, budget) // batch_tokens


def recipe(distillation: dict, schedule: dict, tokens: int, inputs: dict[str, str]) -> Recipe:
    """Of the first `tokens` tokens of a distillation, whose `schedule` says its warm-up."""
    stable = {"kind": schedule["kind"], "warmup_tokens": schedule["warmup_tokens"]}
    return Recipe(STAGE, VERSION, distillation | {"schedule": stable, "tokens": tokens}, inputs)


def shorter(context: Context, wanted: Recipe) -> Path | None:
    """The longest stable phase of the store that `wanted` resumes from."""
    found = {tokens: other for tokens, other in stored(context.store, wanted).items() if tokens < length(wanted)}
    if not found:
        return None
    tokens = max(found)
    log.info("The stable phase resumes from %s, after %s tokens.", found[tokens].fingerprint, f"{tokens:,}")
    return context.store.find(found[tokens])


def stored(store: Store, wanted: Recipe) -> dict[int, Recipe]:
    """The stable phases of the store that differ from `wanted` in length alone, by their tokens."""
    return {length(each): each for each in store.recipes(STAGE) if without_length(each) == without_length(wanted)}


def length(recipe: Recipe) -> int:
    """Tokens of a stable phase."""
    return recipe.config["tokens"]


def is_longer(recipe: Recipe, other: Recipe) -> bool:
    """Whether it resumes from the other one."""
    return length(recipe) > length(other) and without_length(recipe) == without_length(other)


def without_length(recipe: Recipe) -> str:
    """The same for all stable phases of which the longer resumes from the shorter."""
    return digest([recipe.version, recipe.config | {"tokens": None}, recipe.inputs])
