"""The runs of a sweep, read back from their folders: cells of the axes' values, and the numbers of each run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import exp
from pathlib import Path
from statistics import mean
from typing import Any, Literal, NotRequired, TypedDict

from omegaconf import OmegaConf

from pipeline.artifacts import MANIFEST, read_manifest
from pipeline.artifacts.runs import summary
from pipeline.command_line.composition import CONF
from pipeline.data.blocks import INDEX
from pipeline.errors import SprigError
from pipeline.evaluation.savings import Curve, Saving, nll_at, savings
from pipeline.layout import COMPLETED, SUMMARY
from pipeline.outside import misfit
from pipeline.progress import counted
from pipeline.report.schema import SCHEMA, ModelSummary, Summary, random_weights
from pipeline.report.summary import costs
from pipeline.report.sweep.record import JobRecord, read_record, remade, state
from pipeline.report.sweep.settings import settled
from pipeline.stages import distill

SEED = "seed"
INITS = ("init", "distill.init")  # axes that say where the student begins
RANDOM_WEIGHTS = "random_weights"
Kind = Literal["tokens", "student_flops", "training_flops", "total_flops"]  # of a saving
# As papers count them: each adds to what the one before prices.
SAVINGS: dict[Kind, str] = {
    "tokens": "tokens",
    "student_flops": "student FLOPs",
    "training_flops": "+ teacher",
    "total_flops": "+ order, search and recovery",
}

Values = tuple[str, ...]


class Published(TypedDict):
    """An entry of conf/published.yaml."""

    preset: str
    where: dict[str, list[str]]
    says: NotRequired[str]
    fewer_flops: NotRequired[float]
    model: NotRequired[str]
    scores: NotRequired[dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Run:
    """One finished job."""

    id: str
    overrides: dict[str, str]
    folder: Path
    summary: Summary
    same: tuple[dict[str, str], ...] = ()  # overrides of the other cells that it is in

    @cached_property
    def curve(self) -> Curve:
        """The student's validation: (tokens, nats per token), from token 0 on."""
        return distill.curve(self.folder / "artifacts/distilled_student")

    @cached_property
    def control_curve(self) -> Curve | None:
        return distill.curve(self.folder / "artifacts/distilled_control") if self.summary["control"] else None

    @cached_property
    def train_tokens(self) -> int:
        """Tokens of an epoch."""
        index = json.loads((self.folder / "artifacts/tokens" / INDEX).read_text(encoding="utf-8"))
        return index["splits"]["train"]["blocks"] * index["block_size"]

    @cached_property
    def validated_on(self) -> tuple[Any, ...]:
        """What decides whether two perplexities are over the same tokens: the prepared text, and the blocks of it."""
        tokens, data = self.folder / "artifacts/tokens", self.summary["data"]
        text = read_manifest(tokens)["files"]["validation.bin"]["sha256"] if (tokens / MANIFEST).exists() else None
        return text, data["block_size"], data.get("validation_blocks")

    @property
    def student(self) -> ModelSummary:
        return self.summary["student"]

    @property
    def perplexity(self) -> float:
        """Of the student after training."""
        final = self.student["final_perplexity"]
        assert final is not None, "a finished run has one"
        return final

    @property
    def start_flops(self) -> int:
        """Order, search and recovery. Random weights need none: they take only their shape from them."""
        flops = self.summary["flops"]
        before = flops["order"] + flops["search"] + (flops.get("recover") or 0)
        return 0 if self.student["init"] == RANDOM_WEIGHTS else before

    @property
    def flops_per_token(self) -> float:
        """Of training, the teacher's included."""
        return _flops_per_token(self.student)

    @property
    def total_flops(self) -> float:
        return self.start_flops + self.flops_per_token * self.student["tokens"]

    @property
    def trainings(self) -> dict[str, list[tuple[float, float, float]]]:
        """The validations of student and own control: (tokens, total FLOPs, perplexity). As in a saving, order,
        search and recovery are the student's alone."""
        start, each = self.start_flops, self.flops_per_token
        curves = {"student": [(tokens, start + each * tokens, exp(nll)) for tokens, nll in self.curve]}
        if self.control_curve and (control := self.summary["control"]):
            each = _flops_per_token(control)
            curves["control"] = [(tokens, each * tokens, exp(nll)) for tokens, nll in self.control_curve]
        return curves

    def nll_at_flops(self, total: float) -> float | None:
        """The validation loss at a total cost, between two points linear in tokens; None before training begins."""
        tokens = (total - self.start_flops) / self.flops_per_token
        return nll_at(self.curve, min(tokens, self.student["tokens"])) if tokens >= 0 else None


def _flops_per_token(model: ModelSummary) -> float:
    return (model["flops"]["student"] + model["flops"]["teacher"]) / model["tokens"]


@dataclass(frozen=True)
class Cell:
    """The runs that differ in nothing but the seed."""

    values: Values
    runs: list[Run]
    states: list[str]  # of the jobs without a result: failed, running, interrupted, missing

    @property
    def perplexity(self) -> float:
        return mean(run.perplexity for run in self.runs)


@dataclass(frozen=True)
class Sweep:
    name: str
    command: list[str]
    axes: dict[str, list[str]]  # of several values, without the seed
    fixed: dict[str, str]  # the values of the other axes
    cells: list[Cell]
    errors: dict[str, str]  # a failed job's last words, by its overrides

    @property
    def runs(self) -> list[Run]:
        """Each once."""
        return list({run.id: run for cell in self.cells for run in cell.runs}.values())

    @cached_property
    def published(self) -> list[Published]:
        """What is public of this preset's results, see conf/published.yaml; nothing where there are several presets."""
        if len(presets(self.runs)) > 1:
            return []
        known: Any = OmegaConf.to_container(OmegaConf.load(CONF / "published.yaml"))
        return [each for each in known if each["preset"] == self.runs[0].summary["preset"]]

    @cached_property
    def best(self) -> Cell:
        """The one with the lowest perplexity, as the mean of its runs."""
        return min((cell for cell in self.cells if cell.runs), key=lambda cell: cell.perplexity)

    @property
    def best_run(self) -> Run:
        return min(self.best.runs, key=lambda run: run.perplexity)

    @cached_property
    def of_random_teachers(self) -> list[Run]:
        """The runs whose teacher was never trained, so that their numbers mean nothing."""
        return [run for run in self.runs if random_weights(run.summary)]

    @cached_property
    def is_comparable(self) -> bool:
        """Whether all perplexities are over the same tokens."""
        return len({run.validated_on for run in self.runs}) == 1

    @property
    def has_winners(self) -> bool:
        """Whether a lower perplexity means a better run."""
        return self.is_comparable and not self.of_random_teachers

    def values_of(self, cell: Cell) -> dict[str, str]:
        """On every axis that the command names."""
        return self.fixed | dict(zip(self.axes, cell.values, strict=True))

    def name_of(self, cell: Cell) -> str:
        return " ".join(f"{axis}={value}" for axis, value in zip(self.axes, cell.values, strict=True)) or self.name

    @cached_property
    def cheapest(self) -> float:
        """The smallest total FLOPs of all runs, at which all of them can be compared."""
        return min(run.total_flops for run in self.runs)

    def saving(self, run: Run) -> tuple[str, Saving] | None:
        """Which control, and what the run saves over it; None where there is none to compare with, or where it would
        mean nothing.

        A run's own control comes first: it has the student's shape. Without one it is the sweep's run from random
        weights with the same seed and the same value on every other axis.
        """
        if run.student["init"] == RANDOM_WEIGHTS or self.of_random_teachers:
            return None
        if run.control_curve is not None and (control := run.summary["control"]):
            return "own", _saving(run, run.control_curve, control)
        others = [each for each in self.runs if each.student["init"] == RANDOM_WEIGHTS and _alike(run, each)]
        return ("random weights", _saving(run, others[0].curve, others[0].student)) if others else None


def _alike(run: Run, other: Run) -> bool:
    own, *theirs = ({**each, **dict.fromkeys(INITS)} for each in (run.overrides, other.overrides, *other.same))
    return own in theirs


def _saving(run: Run, control: Curve, model: ModelSummary) -> Saving:
    return savings(run.curve, control, costs(run.student, model, run.summary["flops"]))


def read(folder: Path, underway: bool) -> Sweep:
    """The sweep of a folder, with every run that is finished; `underway`: its jobs that have begun are running.

    Raises:
        SprigError: none of its runs is finished, they are of several presets, or
            something is of another schema.
    """
    found = settled(folder, read_record(folder))
    jobs = {job["id"]: job for job in found["jobs"]}
    runs = {key: run for key, job in jobs.items() if (run := _run(folder, job)) is not None}
    if not jobs:
        raise SprigError(f"sweep={folder} has no job left, as the runs of all were removed: give its command again.")
    if not runs:
        command = f"`{' '.join(found['command'])}`"
        completed = [folder / job["folder"] for job in jobs.values() if job["status"] == COMPLETED]
        unreported = any(not (run / SUMMARY).exists() for run in completed)
        cure = f"leave stages= out of {command}, which names no report" if unreported else f"{command} resumes it"
        among = f"among {counted(len(jobs), 'job')}"
        raise SprigError(f"sweep={folder} has no finished run with a report {among}: {cure}.")
    comparison, named = found.get("comparison", False), presets(runs.values())
    if len(named) > 1 and not comparison:
        listed = " and ".join(f"{preset} ({run.id})" for preset, run in sorted(named.items()))
        raise SprigError(f"sweep={folder} has runs of the presets {listed}: a table is of one; start a sweep for each.")
    told = [each for job in jobs.values() for each in (job["overrides"], *job.get("same", ()))]
    varied = {key for key in found["axes"] if len({each.get(key) for each in told}) > 1}
    axes = {key: values for key, values in found["axes"].items() if key != SEED and key in varied}
    fixed = {key: told[0][key] for key in found["axes"] if key != SEED and key not in varied and key in told[0]}
    members: dict[Values, list[str]] = {values: [] for values in (() if comparison else product(*axes.values()))}
    for key, job in jobs.items():
        # A job is in several cells where an axis means nothing with another axis' value.
        of_job = (job["overrides"], *job.get("same", ()))
        for values in dict.fromkeys(tuple(each.get(axis, "") for axis in axes) for each in of_job):
            members.setdefault(values, []).append(key)
    cells = [
        Cell(
            values,
            sorted((runs[key] for key in keys if key in runs), key=lambda run: run.summary["seed"]),
            sorted(state(jobs[key], underway) for key in keys if key not in runs),
        )
        for values, keys in members.items()
        if keys  # of several commands' axes, nobody asked for every combination
    ]
    errors = {
        " ".join(f"{axis}={job['overrides'][axis]}" for axis in found["axes"] if axis in job["overrides"]): error
        for key, job in jobs.items()
        if key not in runs and (error := job["error"])
    }
    return Sweep(found["name"], found["command"], axes, fixed, cells, errors)


def presets(runs: Iterable[Run]) -> dict[str, Run]:
    """A run of each preset."""
    return {run.summary["preset"]: run for run in runs}


def _run(folder: Path, job: JobRecord) -> Run | None:
    path = folder / job["folder"] / SUMMARY
    found: Any = summary(path.parent)
    if job["status"] != COMPLETED or not found:
        return None
    if (schema := found.get("schema")) != SCHEMA:
        raise SprigError(f"{path} is of schema {schema}, this is Sprig's {SCHEMA}: {remade(folder)}")
    if wrong := misfit(found, Summary, "summary"):
        raise SprigError(
            f"{path} has no {wrong} as Sprig writes it: `sprig run={path.parent} stages=[report]` writes it again."
        )
    run = Run(job["id"], job["overrides"], path.parent, found, tuple(job.get("same", ())))
    return run if found["status"] == COMPLETED else None
