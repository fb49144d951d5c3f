"""The runs of a sweep, read back from their folders: cells of the axes' values, and the numbers of each run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import exp
from pathlib import Path
from statistics import mean

from omegaconf import OmegaConf

from pipeline.composition import CONF
from pipeline.data.blocks import Blocks
from pipeline.errors import SprigError
from pipeline.evaluation.savings import nll_at
from pipeline.report.summary import COMPLETED, SCHEMA, SUMMARY, saving
from pipeline.stages import distill

NAME, SWEEP_SCHEMA = "sweep.json", 1
SEED = "seed"
INITS = ("init", "distill.init")  # axes that say where the student begins
RANDOM_WEIGHTS = "random_weights"
# As papers count them: each adds to what the one before prices.
SAVINGS = {
    "tokens": "tokens",
    "student_flops": "student FLOPs",
    "training_flops": "+ teacher",
    "total_flops": "+ order and search",
}

Values = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One finished job."""

    id: str
    overrides: dict[str, str]
    folder: Path
    summary: dict

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """The student's validation: (tokens, nats a token), from token 0 on."""
        return distill.curve(self.folder / "artifacts/distilled_student")

    @cached_property
    def control_curve(self) -> list[tuple[int, float]] | None:
        return distill.curve(self.folder / "artifacts/distilled_control") if self.summary["control"] else None

    @cached_property
    def train_tokens(self) -> int:
        """Tokens of an epoch."""
        blocks = Blocks(self.folder / "artifacts/tokens", "train")
        return len(blocks) * blocks.block_size

    @property
    def student(self) -> dict:
        return self.summary["student"]

    @property
    def start_flops(self) -> int:
        """Order and search. Random weights need neither: they take only their shape from them."""
        flops = self.summary["flops"]
        return 0 if self.student["init"] == RANDOM_WEIGHTS else flops["order"] + flops["search"]

    @property
    def flops_per_token(self) -> float:
        """Of training, the teacher's included."""
        return _flops_per_token(self.student)

    @property
    def total_flops(self) -> float:
        return self.start_flops + self.flops_per_token * self.student["tokens"]

    @property
    def trainings(self) -> dict[str, list[tuple[int, float, float]]]:
        """The validations of student and own control: (tokens, total FLOPs, perplexity). As in a saving, order
        and search are the student's alone."""
        start, each = self.start_flops, self.flops_per_token
        curves = {"student": [(tokens, start + each * tokens, exp(nll)) for tokens, nll in self.curve]}
        if self.control_curve:
            each = _flops_per_token(self.summary["control"])
            curves["control"] = [(tokens, each * tokens, exp(nll)) for tokens, nll in self.control_curve]
        return curves

    def nll_at_flops(self, total: float) -> float | None:
        """The validation loss at a total cost, between two points linear in tokens; None before training begins."""
        tokens = (total - self.start_flops) / self.flops_per_token
        return nll_at(self.curve, min(tokens, self.student["tokens"])) if tokens >= 0 else None


def _flops_per_token(model: dict) -> float:
    return (model["flops"]["student"] + model["flops"]["teacher"]) / model["tokens"]


@dataclass(frozen=True)
class Cell:
    """The runs that differ in nothing but the seed."""

    values: Values
    runs: list[Run]
    states: list[str]  # of the jobs without a result: failed, interrupted, missing

    @property
    def perplexity(self) -> float:
        return mean(run.student["final_perplexity"] for run in self.runs)


@dataclass(frozen=True)
class Sweep:
    name: str
    command: list[str]
    axes: dict[str, list[str]]  # without the seed
    cells: list[Cell]
    errors: dict[str, str]  # a failed job's last words, by its overrides

    @property
    def runs(self) -> list[Run]:
        """Each once."""
        return list({run.id: run for cell in self.cells for run in cell.runs}.values())

    @cached_property
    def published(self) -> list[dict]:
        """What is public of this preset's results, see conf/published.yaml."""
        known = OmegaConf.to_container(OmegaConf.load(CONF / "published.yaml"))
        return [each for each in known if each["preset"] == self.runs[0].summary["preset"]]

    @cached_property
    def best(self) -> Cell:
        """The one with the lowest perplexity, as the mean of its runs."""
        return min((cell for cell in self.cells if cell.runs), key=lambda cell: cell.perplexity)

    @property
    def headline(self) -> str:
        """What came out, in one sentence."""
        best, settings = self.best, sum(bool(cell.runs) for cell in self.cells)
        runs = f"{len(best.runs)} run{'s' * (len(best.runs) > 1)}"
        return (
            f"The lowest validation perplexity of {settings} settings is {best.perplexity:,.2f}, the mean of {runs} "
            f"with {self.name_of(best)}; the teacher stands at {best.runs[0].summary['teacher']['perplexity']:,.2f}."
        )

    def name_of(self, cell: Cell) -> str:
        return " ".join(f"{axis}={value}" for axis, value in zip(self.axes, cell.values, strict=True)) or self.name

    @cached_property
    def cheapest(self) -> float:
        """The smallest total FLOPs of all runs, at which all of them can be compared."""
        return min(run.total_flops for run in self.runs)

    def saving(self, run: Run) -> tuple[str, dict] | None:
        """Which control, and what the run saves over it; None where there is none to compare with.

        A run's own control comes first: it has the student's shape. Without one it is the sweep's run from random
        weights with the same seed and the same value on every other axis.
        """
        if run.student["init"] == RANDOM_WEIGHTS:
            return None
        if run.control_curve is not None:
            return "own", _saving(run, run.control_curve, run.summary["control"])
        others = [each for each in self.runs if each.student["init"] == RANDOM_WEIGHTS and _alike(run, each)]
        return ("random weights", _saving(run, others[0].curve, others[0].student)) if others else None


def _alike(run: Run, other: Run) -> bool:
    keys = (set(run.overrides) | set(other.overrides)) - set(INITS)
    return all(run.overrides.get(key) == other.overrides.get(key) for key in keys)


def _saving(run: Run, control: list[tuple[int, float]], model: dict) -> dict:
    return saving(run.student, model, run.summary["flops"], run.curve, control)


def read(folder: Path) -> Sweep:
    """The sweep of a folder, with every run that is finished.

    Raises:
        SprigError: the folder is no sweep's, none of its runs is finished, they are of several presets, or something is
            of another schema.
    """
    found = read_record(folder)
    jobs = {job["id"]: job for job in found["jobs"]}
    runs = {key: run for key, job in jobs.items() if (run := _run(folder, job)) is not None}
    if not runs:
        raise SprigError(
            f"sweep={folder} has no finished run among its {len(jobs)} jobs: `{' '.join(found['command'])}` goes on."
        )
    presets = {run.summary["preset"]: run for run in runs.values()}
    if len(presets) > 1:
        listed = " and ".join(f"{preset} ({run.id})" for preset, run in sorted(presets.items()))
        raise SprigError(f"sweep={folder} has runs of the presets {listed}: a table is of one; start a sweep for each.")
    axes = {key: values for key, values in found["axes"].items() if key != SEED}
    members: dict[Values, list[str]] = {values: [] for values in product(*axes.values())}
    for key, job in jobs.items():
        # A job is in several cells where an axis means nothing beside another's value.
        of_job = (job["overrides"], *job.get("same", ()))
        for values in dict.fromkeys(tuple(each.get(axis, "") for axis in axes) for each in of_job):
            members.setdefault(values, []).append(key)
    cells = [
        Cell(
            values,
            sorted((runs[key] for key in keys if key in runs), key=lambda run: run.summary["seed"]),
            sorted(_state(jobs[key]) for key in keys if key not in runs),
        )
        for values, keys in members.items()
    ]
    errors = {
        " ".join(f"{axis}={job['overrides'][axis]}" for axis in found["axes"] if axis in job["overrides"]): job["error"]
        for key, job in jobs.items()
        if key not in runs and job["error"]
    }
    return Sweep(found["name"], found["command"], axes, cells, errors)


def read_record(folder: Path) -> dict:
    """A sweep's own file, which the launcher keeps.

    Raises:
        SprigError: it is not there, or of another schema.
    """
    path = folder / NAME
    if not path.exists():
        raise SprigError(f"sweep={folder} is no sweep's folder ({path} is not there): name one of outputs/sweeps.")
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["schema"] != SWEEP_SCHEMA:
        raise SprigError(f"{path} is of schema {found['schema']}, this is Sprig's {SWEEP_SCHEMA}: {_remade(folder)}")
    return found


def _remade(folder: Path) -> str:
    return f"move {folder} away and give the sweep's command again; what is finished is found, not made again."


def _state(job: dict) -> str:
    """A job that was completed, but has no report any more, is missing."""
    return "missing" if job["status"] == COMPLETED else job["status"]


def _run(folder: Path, job: dict) -> Run | None:
    path = folder / job["folder"] / SUMMARY
    if job["status"] != COMPLETED or not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    if summary["schema"] != SCHEMA:
        raise SprigError(f"{path} is of schema {summary['schema']}, this is Sprig's {SCHEMA}: {_remade(folder)}")
    return Run(job["id"], job["overrides"], path.parent, summary) if summary["status"] == COMPLETED else None


def numbers(sweep: Sweep, run: Run) -> Iterator[tuple[str, object]]:
    """Every number of a run by name: what the sweep adds, then its summary, nested names joined by dots."""
    nll = run.nll_at_flops(sweep.cheapest)
    yield "total_flops", run.total_flops
    yield "epochs", run.student["tokens"] / run.train_tokens
    yield "nll_at_equal_flops", nll
    control, saving = sweep.saving(run) or (None, {})
    yield "saving.control", control
    yield from ((f"saving.{key}", value) for key, value in saving.items())
    yield from _flat({key: value for key, value in run.summary.items() if key != "saving"})


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else key)
    else:
        yield name, value
