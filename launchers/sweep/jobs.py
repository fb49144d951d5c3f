"""The jobs of a sweep: composed and checked before the first starts, each once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override

from pipeline.artifacts import MANIFEST, Recipe
from pipeline.artifacts.runs import summary
from pipeline.command_line.composition import compose
from pipeline.config import ON_REQUEST, Device, Precision
from pipeline.errors import SprigError
from pipeline.plan import checks
from pipeline.report import material
from pipeline.run_folder import path_of
from pipeline.stages import downstream, graph, stable
from pipeline.stages.budget import budget
from pipeline.stages.context import Context, Step, Steps

Overrides = dict[str, str]


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
    _refuse_idle_axes(list(jobs.values()), axes)
    alike: dict[str, list[Job]] = {}
    for job in jobs.values():
        alike.setdefault(job.id, []).append(job)
    once = [replace(first, same=tuple(other.overrides for other in others)) for first, *others in alike.values()]
    return sorted(once, key=lambda job: budget(job.context))


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
    """An axis whose values all give the same run has no effect: the preset does not use that key."""
    for key, values in axes.items():
        others: dict[tuple, set[str]] = {}
        for job in jobs:
            rest = tuple(override for override in job.overrides if not override.startswith(f"{key}="))
            others.setdefault(rest, set()).add(job.id)
        if len(set(values)) > 1 and all(len(ids) == 1 for ids in others.values()):
            raise SprigError(
                f"Axis {key}={','.join(values)} changes no result of {jobs[0].context.config.preset}: its values all "
                "give the same run. Leave it out, or choose a setting that uses it."
            )
