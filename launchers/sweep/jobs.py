"""The jobs of a sweep: composed and checked before the first starts, each once."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override
from omegaconf import OmegaConf

from pipeline.artifacts import MANIFEST, Recipe
from pipeline.artifacts.runs import summary
from pipeline.command_line.composition import PRESETS, compose, composed
from pipeline.config import ON_REQUEST, Device, Precision, keys, unread
from pipeline.errors import SprigError
from pipeline.plan import checks
from pipeline.progress import counted
from pipeline.report import material
from pipeline.run_folder import path_of
from pipeline.stages import downstream, graph, stable
from pipeline.stages.budget import budget
from pipeline.stages.context import Context, Step, Steps

Overrides = dict[str, str]

log = logging.getLogger("sprig")


@dataclass(frozen=True)
class Job:
    """One run of the sweep. Its id is the run folder's: what determines the result, so a run of its own is the same."""

    overrides: tuple[str, ...]
    context: Context
    graph: Steps
    last: Step
    same: tuple[tuple[str, ...], ...] = ()  # further combinations of the axes' values that are this very run

    @property
    def folder(self) -> Path:
        return path_of(self.context, self.last)

    @cached_property
    def steps(self) -> list[Step]:
        """What it is asked to make, in order."""
        steps = [*self.graph.values(), self.last]
        return [step for step in steps if step.stage in self.context.config.stages]

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def named(self) -> Overrides:
        return named(self.overrides)

    def label(self, axes: Iterable[str]) -> str:
        """What tells it from the others."""
        return label(self.overrides, axes)

    def completed(self) -> bool:
        """Whether every artifact that it is asked for is there, and the report where people look for it."""
        reported = material.STAGE not in self.context.config.stages or bool(summary(self.folder))
        return reported and all(self._made(step.recipe) for step in self.steps)

    def resumes_from(self, other: "Job") -> bool:
        """Whether a training of it begins with a stable phase that the other one has still to make."""
        phases = product(*([step.phase for step in job.steps if step.phase is not None] for job in (self, other)))
        return any(
            stable.is_longer(mine, theirs) and not self._made(mine) and not self._made(theirs)
            for mine, theirs in phases
        )

    def _made(self, recipe: Recipe) -> bool:
        return (self.context.store.path(recipe) / MANIFEST).exists()


def named(overrides: Sequence[str]) -> Overrides:
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}


def label(overrides: Sequence[str], axes: Iterable[str]) -> str:
    return " ".join(f"{key}={value}" for key, value in named(overrides).items() if key in axes)


def prepare(
    lists: Sequence[Sequence[str]], axes: dict[str, list[str]], ranks: int, elsewhere: bool, nodes: int = 1
) -> list[Job]:
    """The jobs of these overrides, checked as `ranks` processes on `nodes` machines would, the identical ones once,
    small budgets first: a larger one may resume from the stable phase of a smaller.

    `elsewhere`: they run on other machines than this one, whose device and precision then say nothing; a single job
    without axes may go there too.

    Raises:
        SprigError: a job cannot work (its overrides are named), the axes are empty or contradict the preset.
    """
    for key, values in axes.items():
        if not values:
            raise SprigError(f"Axis {key} of the sweep has no values: give it some, {key}=a,b.")
    if len(outputs := axes.get("outputs", [])) > 1:
        together = ",".join(each.strip("'\"") for each in outputs)
        raise SprigError(
            f"outputs={','.join(outputs)} names {len(outputs)} folders, and a sweep has one: name one. A path with a "
            f"comma needs quotes of its own inside those of the shell, \"outputs='{together}'\"."
        )
    if not axes and not elsewhere:
        raise SprigError("The sweep has no axes: give at least one value after another, such as seed=0,1,2.")
    shared: dict[str, Any] = {}
    jobs = {}
    count = {} if ranks == 1 else {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks // nodes)}
    for overrides in dict.fromkeys(map(tuple, lists)):
        try:
            with env_override(count):
                checks.check(context := _context(overrides, shared, elsewhere))
            steps = graph.build(context)
            downstream.check(context, steps)
            jobs[overrides] = Job(overrides, context, steps, material.step(context, steps))
        except SprigError as error:
            prefix = f"Job {label(overrides, axes)}: " if axes else ""
            raise SprigError(f"{prefix}{error} No job was started.") from None
    folders = {job.folder.parent: job for job in jobs.values()}
    if len(folders) > 1:
        raise SprigError(
            f"A sweep has one preset, but these axes give the run folders {' and '.join(map(str, folders))}: start a "
            "sweep for each, or, where the presets differ, give all of them one preset=NAME."
        )
    _refuse_replaced(next(iter(jobs)), axes)
    _refuse_idle_axes(list(jobs.values()), axes)
    alike: dict[str, list[Job]] = {}
    for job in jobs.values():
        alike.setdefault(job.id, []).append(job)
    once = [replace(first, same=tuple(other.overrides for other in others)) for first, *others in alike.values()]
    _say_which_are_one(once, axes)
    return sorted(once, key=lambda job: budget(job.context))


def _say_which_are_one(jobs: list[Job], axes: Iterable[str]) -> None:
    if merged := [(label(other, axes), job.label(axes)) for job in jobs for other in job.same]:
        log.info(
            "%d combinations are %s: %s is the same as %s%s",
            len(jobs) + len(merged),
            counted(len(jobs), "run"),
            *merged[0],
            f", and {len(merged) - 1} more" if len(merged) > 1 else "",
        )


def warn_of_unread(jobs: Sequence[Job], axes: Iterable[str]) -> None:
    """Says once, before the first job, which overrides that all jobs share have no effect in any of them."""
    for word in jobs[0].overrides:
        if word.partition("=")[0].lstrip("+") in axes:
            continue
        found = [unread(job.context.config, [word]) for job in jobs]
        if all(found):
            log.warning(found[0][0])


def _context(overrides: tuple[str, ...], shared: dict[str, Any], elsewhere: bool) -> Context:
    config = compose(list(overrides))
    if requested := [stage for stage in config.stages if stage in ON_REQUEST]:
        raise SprigError(
            f"stages names {requested[0]}, which is for one run: sprig run=FOLDER stages=[{requested[0]}]."
        )
    if elsewhere and config.precision == Precision.auto:
        raise SprigError(
            "precision=auto would describe this machine, but the jobs run on others: set precision=bf16-mixed or fp32."
        )
    if elsewhere:  # as a plan, which judges no device of this machine
        config = replace(config, plan=True, device=Device.cpu if config.device == Device.cpu else Device.cuda)
    return Context(config, lambda line: None, shared)


def _refuse_idle_axes(jobs: list[Job], axes: dict[str, list[str]]) -> None:
    """Values that give the same runs, whatever the other axes say, would be told apart by their labels alone."""
    for key, values in axes.items():
        runs: dict[str, set[tuple]] = {}  # of each value: the other overrides and the run
        for job in jobs:
            rest = tuple(override for override in job.overrides if not override.startswith(f"{key}="))
            runs.setdefault(job.named[key], set()).add((rest, job.id))
        alike: dict[frozenset, list[str]] = {}
        for value, found in runs.items():
            alike.setdefault(frozenset(found), []).append(value)
        axis = f"Axis {key}={','.join(values)}"
        if len(runs) > 1 and len(alike) == 1:
            raise SprigError(
                f"{axis} changes no result of {jobs[0].context.config.preset}: its values all give the same run. Leave "
                "it out, or choose a setting that uses it."
            )
        if same := next((each for each in alike.values() if len(each) > 1), None):
            raise SprigError(
                f"{axis}: {' and '.join(same)} give the same run. Keep one of them, or leave out the override that "
                "replaces what sets them apart."
            )


def _refuse_replaced(overrides: Sequence[str], axes: dict[str, list[str]]) -> None:
    """A word that replaces what the values of an axis stand for makes their labels untrue: distill.init=searched beside
    init=random_weights,searched. A number may be replaced, such as a search's generations for all strategies.

    `overrides`: of any job.
    """
    for word in overrides:
        name, _, value = word.partition("=")
        known = keys.find(name)
        if known is None or not known.is_kind:
            continue
        for axis in (each for each in axes if each not in (name, *PRESETS)):
            others = [each for each in overrides if each != word and not each.startswith(f"{axis}=")]
            found = (OmegaConf.select(composed([*others, f"{axis}={each}"]), name) for each in axes[axis])
            replaced = list(dict.fromkeys(str(each) for each in found))
            if len(replaced) > 1:
                raise SprigError(
                    f"{name}={value} replaces what the axis {axis}={','.join(axes[axis])} chooses, {name}="
                    f"{' and '.join(replaced)}, so its labels would be untrue: leave out one of the two."
                )
