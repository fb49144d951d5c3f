"""Where jobs run: processes of this machine or Slurm, behind submitit's one interface."""

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout
from submitit import Executor, LocalExecutor, SlurmExecutor, SlurmJob
from submitit import Job as Handle

from launchers.sweep.jobs import Job
from launchers.sweep.record import Record
from launchers.sweep.task import Task
from pipeline.config import GRACE, LauncherConfig
from pipeline.errors import SprigError
from pipeline.report.sweep.record import INTERRUPTED, LOCK

NO_LIMIT = 60 * 24 * 365 * 10  # minutes; a local job ends when it is done
ON_SLURM = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED", "PREEMPTED")

Slot = dict[str, str]  # the environment of the job that has it

log = logging.getLogger("sprig")


def _slots(settings: LauncherConfig, jobs: Sequence[Job]) -> list[Slot]:
    """This machine's GPUs, or its cores, shared out to as many jobs as run at a time.

    Raises:
        SprigError: that takes more GPUs than there are, or jobs that run on GPUs were given no GPUs.
    """
    wanted = int(any(job.context.device.type == "cuda" for job in jobs))
    each = wanted if settings.gpus_per_job is None else settings.gpus_per_job
    if each < wanted:
        raise SprigError("hydra.launcher.gpus_per_job=0, but the jobs run on GPUs: leave it out, or set device=cpu.")
    gpus = _visible_gpus() if each else []
    at_once = settings.jobs or (max(1, len(gpus) // each) if each else 1)
    if at_once * each > len(gpus):
        raise SprigError(
            f"hydra.launcher.jobs={at_once} with gpus_per_job={each} need {at_once * each} GPUs, but this machine has "
            f"{len(gpus)}: lower one of them, or set device=cpu hydra.launcher.gpus_per_job=0."
        )
    at_once = min(at_once, len(jobs))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // (at_once * max(1, each))))
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * each : (slot + 1) * each]), "OMP_NUM_THREADS": threads}
        for slot in range(at_once)
    ]


def _visible_gpus() -> list[str]:
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(gpu) for gpu in range(count)] if visible is None else visible.split(",")[:count]


@dataclass
class Place:
    """Where jobs go: one at a time into each slot."""

    executor: Executor
    slots: list[Slot]
    ranks: int = 1
    alive: Path | None = None
    here: dict[str, Handle] = field(default_factory=dict)  # what an earlier start submitted and is not over, by job

    @property
    def elsewhere(self) -> bool:
        """Whether its jobs keep running without this process."""
        return self.alive is None

    def submit(self, jobs: list[Job], slots: list[Slot]) -> list[Handle]:
        pairs = [(job, slot) for job, slot in zip(jobs, slots, strict=True) if job.id not in self.here]
        tasks = [Task(list(job.overrides), slot, self.ranks, self.alive) for job, slot in pairs]
        with _ignoring_interrupts():
            submitted = self.executor.submit_array(tasks) if tasks else []
        # A Slurm job of several ranks is as many of submitit's tasks; rank 0's stands for it.
        new = iter(handle.task(0) for handle in submitted) if self.elsewhere else iter(submitted)
        return [self.here.get(job.id) or next(new) for job in jobs]


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """What is started inside never gets a SIGINT. A terminal sends Ctrl-C to all processes, and submitit's controllers
    would print a traceback each and kill their jobs; the sweep ends them, and they write a checkpoint."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def local(settings: LauncherConfig, record: Record, jobs: Sequence[Job]) -> Iterator[Place]:
    """Processes of this machine, which end with this one.

    Raises:
        SprigError: more GPUs are asked for than there are.
    """
    slots = _slots(settings, jobs)
    folder = _folder_of_this_start(record.folder)
    executor = LocalExecutor(folder)
    executor.update_parameters(timeout_min=NO_LIMIT, stderr_to_stdout=True)
    with FileLock(folder / "alive.lock") as alive:
        yield Place(executor, slots, settings.ranks, Path(alive.lock_file))


@contextmanager
def slurm(settings: LauncherConfig, record: Record, jobs: Sequence[Job]) -> Iterator[Place]:
    """An array of Slurm jobs. Those of an earlier start that wait or run are taken over.

    Raises:
        SprigError: this machine has no Slurm, or submitit knows no such option.
    """
    if shutil.which("sbatch") is None:
        raise SprigError(
            "hydra/launcher=slurm, but this machine has no Slurm (no sbatch on its PATH): give the command on a login "
            "node, or add hydra.launcher.dry_run=true to see what it would submit."
        )
    executor = _configured(SlurmExecutor, settings, _folder_of_this_start(record.folder), record.name)
    here: dict[str, Handle] = {job.id: handle for job in jobs if (handle := _still_there(record, job)) is not None}
    threads = os.environ.get("OMP_NUM_THREADS") or str(settings.slurm["cpus_per_task"])
    yield Place(executor, [{"OMP_NUM_THREADS": threads} for _ in jobs], settings.ranks, here=here)


def _still_there(record: Record, job: Job) -> SlurmJob | None:
    submitted = record.jobs[job.id]["submitted"]
    if submitted is None or record.jobs[job.id]["status"] != INTERRUPTED:
        return None
    handle: SlurmJob[Any] = SlurmJob(record.folder / submitted["folder"], submitted["job_id"])
    return handle if handle.state in ON_SLURM else None


def _configured(kind: type[SlurmExecutor], settings: LauncherConfig, folder: Path, name: str) -> SlurmExecutor:
    own = {key: value for key, value in settings.slurm.items() if value is not None}
    # submitit would name itself as the work to be charged.
    options = {"job_name": f"sprig-{name}".replace("/", "-"), "stderr_to_stdout": True, "wckey": None} | own
    options |= {"nodes": settings.nodes, "ntasks_per_node": settings.ranks // settings.nodes}
    always = {"signal": f"USR1@{GRACE}", "requeue": True}
    options["additional_parameters"] = always | own.get("additional_parameters", {})
    # srun takes no cores over from sbatch since Slurm 22.05. A rank that dies must end the others, which wait for it.
    flags = [f"--cpus-per-task={own['cpus_per_task']}", "--kill-on-bad-exit=1"]
    options["srun_args"] = flags + list(own.get("srun_args", []))
    if settings.gpus_per_job:
        options["gpus_per_node"] = settings.gpus_per_job // settings.nodes
    if settings.jobs:
        options["array_parallelism"] = settings.jobs
    try:
        executor = kind(folder)
        executor.update_parameters(**options)
    except (ValueError, TypeError) as error:
        raise SprigError(f"hydra.launcher.slurm: {' '.join(str(error).split())}") from None
    return executor


def script(settings: LauncherConfig, folder: Path, name: str, jobs: int) -> str:
    """What sbatch would be given for this many jobs; Slurm is not needed."""
    executor = _configured(_Scripts, settings, _folder_of_this_start(folder), name)
    executor.parameters |= {} if jobs == 1 else {"map_count": jobs}  # as SlurmExecutor does for an array
    return executor._make_submission_file_text(executor._submitit_command_str, "")


class _Scripts(SlurmExecutor):
    """Writes its scripts where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def end(handles: Sequence[Handle]) -> None:
    """Ends jobs and all their processes: first with a SIGTERM, at which a training writes a checkpoint."""
    trees = []
    for handle in handles:
        if isinstance(handle, SlurmJob):
            handle.cancel(check=False)
        elif tree := _tree(int(handle.job_id)):
            tree[0].terminate()  # the controller hands it on
            trees += tree
    if trees:
        log.info(
            "Stopping the running jobs; those that are training write a checkpoint first. Press Ctrl-C again to stop "
            "at once."
        )
    _, alive = psutil.wait_procs(trees, timeout=GRACE)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        controller = psutil.Process(pid)
        return [controller, *controller.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _folder_of_this_start(sweep: Path) -> Path:
    """Where submitit puts pickles and logs: another folder at every start, since it numbers local jobs by process."""
    return sweep / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Keeps the sweep's folder for one process; Raises SprigError where another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=2):
            yield
    except Timeout:
        raise SprigError(
            f"Another process runs the sweep {folder}: wait for it, or give this one a run_name=."
        ) from None
