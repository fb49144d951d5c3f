"""The jobs of a sweep: composed and checked before the first starts, each once."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from hydra.core.utils import env_override

from launchers.sweep.jobs import Job, label
from launchers.sweep.labels import name_merged, refuse_idle_axes, refuse_replaced
from pipeline.command_line.composition import compose
from pipeline.config import ON_REQUEST, Device, Precision
from pipeline.errors import SprigError
from pipeline.plan import checks
from pipeline.report import material
from pipeline.stages import downstream, graph
from pipeline.stages.budget import budget
from pipeline.stages.context import Context


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
    _check_axes(axes, elsewhere)
    shared: dict[str, Any] = {}
    jobs = {}
    for overrides in dict.fromkeys(map(tuple, lists)):
        try:
            with as_ranks(ranks, nodes):
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
    refuse_replaced(next(iter(jobs)), axes)
    refuse_idle_axes(list(jobs.values()), axes)
    alike: dict[str, list[Job]] = {}
    for job in jobs.values():
        alike.setdefault(job.id, []).append(job)
    once = [replace(first, same=tuple(other.overrides for other in others)) for first, *others in alike.values()]
    name_merged(once, axes)
    return sorted(once, key=lambda job: budget(job.context))


def as_ranks(ranks: int, nodes: int) -> AbstractContextManager[None]:
    """As one of `ranks` processes on `nodes` machines."""
    return env_override({} if ranks == 1 else {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks // nodes)})


def _check_axes(axes: dict[str, list[str]], elsewhere: bool) -> None:
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
        raise SprigError("The sweep has no axes: give at least one key several values, such as seed=0,1,2.")


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
