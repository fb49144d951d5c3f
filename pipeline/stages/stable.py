"""The stable phase of a wsd schedule as an artifact of its own, with the training's whole state at its end.

Its recipe holds all that distillation is but the budget and the decay, so trainings of the same stable phase share it,
and a longer one goes on from a shorter one.
"""

import logging
from pathlib import Path

from pipeline.artifacts import Recipe, digest, read_manifest
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
    """The longest stable phase of the store that `wanted` goes on from."""
    found: dict[int, Recipe] = {}
    for manifest in map(read_manifest, (path.parent for path in (context.store.root / STAGE).glob("*/manifest.json"))):
        other = Recipe(manifest["stage"], manifest["version"], manifest["config"], manifest["inputs"])
        if other.config["tokens"] < wanted.config["tokens"] and _without_length(other) == _without_length(wanted):
            found[other.config["tokens"]] = other
    if not found:
        return None
    tokens = max(found)
    log.info("The stable phase goes on from %s, of %s tokens.", found[tokens].fingerprint, f"{tokens:,}")
    return context.store.find(found[tokens])


def _without_length(recipe: Recipe) -> str:
    return digest([recipe.version, recipe.config | {"tokens": None}, recipe.inputs])
