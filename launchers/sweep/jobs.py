"""A job of a sweep, and how it is told from the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from pipeline.artifacts import MANIFEST, Recipe
from pipeline.artifacts.runs import summary
from pipeline.report import material
from pipeline.run_folder import path_of
from pipeline.stages import stable
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
