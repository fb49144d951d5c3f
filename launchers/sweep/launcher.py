"""`sprig -m`: Hydra's sweep of axes, on a launcher over submitit that resumes."""

import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig

from launchers.sweep import axes, clusters, pool, prices, sweepers
from launchers.sweep.board import Board
from launchers.sweep.jobs import Job, named
from launchers.sweep.labels import warn_of_unread
from launchers.sweep.prepare import as_ranks, prepare
from launchers.sweep.record import FAILED, Record
from pipeline.command_line.composition import anywhere, session
from pipeline.config import Cluster, Config, LauncherConfig
from pipeline.config.typed import to_typed
from pipeline.errors import Interrupted, SprigError
from pipeline.layout import COMPLETED, SUMMARY, SWEEPS, near
from pipeline.plan import after
from pipeline.plan.table import table
from pipeline.preemption import preemptible
from pipeline.report.sweep import report as sweep_report
from pipeline.report.sweep.record import NAME
from pipeline.terminal import show, show_commands

log = logging.getLogger("sprig")


def start(overrides: list[str]) -> None:
    """Runs the sweep of a command line or of its preset.

    Raises:
        SprigError: nothing was started, for a job cannot work; or some jobs failed, and the others are done.
    """
    with session(overrides, sweeps=True) as opened:
        config = opened.compose(RunMode.MULTIRUN)
        context = HydraContext(opened.loader, Callbacks(config))
        # Hydra itself would only make launchers of a package `hydra_plugins`, which it imports at every command.
        launcher = SweepLauncher(opened.searched, anywhere(overrides))
        launcher.setup(hydra_context=context, task_function=None, config=config)
    if sweepers.chosen(config) == sweepers.GRID:
        launcher.launch(launcher.combinations(), 0)
    else:
        sweepers.search(config, context, launcher, launcher.folder(config))


class SweepLauncher(Launcher):
    """Runs the jobs of a sweep through submitit; what is completed is skipped, what failed is run again.

    `searched`: overrides by which a job finds the configuration files of this command. `typed`: its words, as they
    make the sweep again from another folder.
    """

    def __init__(self, searched: Sequence[str] = (), typed: Sequence[str] = ()):
        self.searched, self.command = list(searched), ["sprig", "-m", *typed]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction | None, config: DictConfig) -> None:
        if "_target_" in config.hydra.launcher:
            raise SprigError(
                f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']}: Sprig's sweeps start their jobs "
                "themselves; choose local or slurm."
            )
        self.settings = to_typed(LauncherConfig, config.hydra.launcher, "hydra.launcher.")
        self.sweeper = sweepers.chosen(config)
        self.planned = config.plan
        declared = config.hydra.sweeper.get("params") or {}
        parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        words = [*(f"{key}={value}" for key, value in declared.items()), *config.hydra.overrides.task]
        final = {each.get_key_element(): each for each in parser.parse_overrides(words)}
        swept = {key: each for key, each in final.items() if each.is_sweep_override() or key in declared}
        grid = self.sweeper == sweepers.GRID
        self.axes = {key.lstrip("+"): axes.values(each) if grid else [] for key, each in swept.items()}
        axes.check_number(self.axes.values())
        self._check_plan()
        # Everything else as it was typed, so that a job alone has the same command.
        self.fixed = [*self.searched, *(axes.typed(each) for key, each in final.items() if key not in swept)]

    def _check_plan(self) -> None:
        if self.planned == "measure" and not self.axes and self.settings.cluster == Cluster.slurm:
            raise SprigError(
                "plan=measure times one run on this machine, and this one goes to Slurm: use plan=true, or leave "
                "hydra/launcher out on a machine like those."
            )
        if self.planned == "measure":
            raise SprigError(
                "plan=measure times one run, and this is a sweep: use plan=true, which ends with the command that "
                "plans one of its jobs, and give that command plan=measure."
            )

    def combinations(self) -> list[list[str]]:
        """The overrides of every job: all combinations of the axes' values, the last axis the quickest."""
        words = [[f"{key}={value}" for value in values] for key, values in self.axes.items()]
        return [[*self.fixed, *each] for each in product(*words)]

    def folder(self, config: Config | DictConfig) -> Path:
        return Path(config.outputs) / SWEEPS / (config.run_name or config.preset)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Runs a batch of jobs; for a sweeper that decides by them, the validation loss of each student.

        Raises:
            SprigError: a job cannot work, and none was started; or some failed, and the others are completed.
            Interrupted: Ctrl-C or a signal came; the same command resumes from there.
        """
        settings = self.settings
        elsewhere = settings.cluster == Cluster.slurm
        if self.sweeper != sweepers.GRID:
            job_overrides = [self._whole(each) for each in job_overrides]
        jobs = prepare(job_overrides, self._axes_of(job_overrides), settings.ranks, elsewhere, settings.nodes)
        if self.sweeper == sweepers.GRID:
            warn_of_unread(jobs, self.axes)
        else:  # its later batches may read what this one does not
            sweepers.check(jobs, self.sweeper)
        folder = self.folder(jobs[0].context.config)
        name = folder.name
        todo = [job for job in jobs if not job.completed()]
        if self.planned and self.axes:
            costly = prices.show(jobs, self.axes)
            command = after.alone(costly.overrides, settings.ranks, elsewhere)
            show_commands([("plan its most expensive job in full, with memory, batch, time and disk", command)])
        elif self.planned:
            with as_ranks(settings.ranks, settings.nodes):
                show(["", ""], table(jobs[0].context), "What this run would do")
            show_commands(after.commands(jobs[0].context.config, self.command[2:]))
        elif settings.dry_run:
            if done := len(jobs) - len(todo):
                log.info("%s: %d of %d jobs are completed, and not submitted", near(folder), done, len(jobs))
            if todo:
                print(clusters.script(settings, folder, name, len(todo)))
        else:
            with clusters.only_here(folder):
                record = Record(folder, name, self.command, self.axes, jobs)
                if todo:
                    self._run(jobs, todo, record)
                else:
                    record.save()
                    log.info("%s: all of its %d jobs are completed", near(folder), len(jobs))
                if self.sweeper != sweepers.GRID:
                    return _returned(job_overrides, jobs, record)
                _close(jobs, record)
        return []

    def _axes_of(self, jobs: Sequence[Sequence[str]]) -> dict[str, list[str]]:
        """The axes, for a sweeper of this batch alone: its earlier suggestions say nothing about an idle axis."""
        if self.sweeper == sweepers.GRID:
            return self.axes
        axes = self.axes.items()
        return {key: [each for each in values if any(f"{key}={each}" in job for job in jobs)] for key, values in axes}

    def _whole(self, suggested: Sequence[str]) -> tuple[str, ...]:
        """What a sweeper suggests for a job, with what this command fixes as it was typed."""
        given = named(suggested)
        for key, values in self.axes.items():
            if key in given and given[key] not in values:
                values.append(given[key])
        return (*self.fixed, *(f"{key}={given[key]}" for key in self.axes if key in given))

    def _run(self, jobs: list[Job], todo: list[Job], record: Record) -> None:
        make = clusters.slurm if self.settings.cluster == Cluster.slurm else clusters.local
        try:
            with preemptible(), make(self.settings, record, todo) as place, Board(jobs, record, self.axes) as board:
                record.save()
                pool.run(todo, place, record, board, self.settings.fail_fast)
        except (Interrupted, KeyboardInterrupt) as stop:
            reason = str(stop) or "Interrupted: the same command resumes from here."
            done = sum(job.completed() for job in jobs)
            raise Interrupted(f"{reason} {done} of {len(jobs)} jobs are completed.") from None


def _returned(overrides: Sequence[Sequence[str]], jobs: Sequence[Job], record: Record) -> list[JobReturn]:
    """In the order that they were asked for; combinations that are one run have one result."""
    sweep_report.report(record.folder)
    of = {each: job for job in jobs for each in (job.overrides, *job.same)}
    results = []
    for each in map(tuple, overrides):
        state = record.jobs[of[each].id]
        results.append(sweepers.returned(each, of[each], state["error"] if state["status"] == FAILED else None))
    return results


def _close(jobs: list[Job], record: Record) -> None:
    """The sweep's report; SprigError where jobs failed."""
    states = [record.jobs[job.id] for job in jobs]
    if record.axes() and any(
        state["status"] == COMPLETED and (job.folder / SUMMARY).exists()
        for job, state in zip(jobs, states, strict=True)
    ):
        sweep_report.report(record.folder, underway=False)
    if failed := [state for state in states if state["status"] == FAILED]:
        first, axes = failed[0], record.axes()
        overrides = "".join(f" {key}={value}" for key, value in first["overrides"].items() if key in axes)
        raise SprigError(
            f"{len(failed)} of {len(jobs)} jobs failed, first{overrides}: {first['error'].splitlines()[-1].strip()} "
            f"{record.folder / NAME} has the last lines of the logs; the same command runs only unfinished jobs."
        )
