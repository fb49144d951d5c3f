"""What runs in a job's own process, under submitit: the same command as the job alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from submitit.helpers import TorchDistributedEnvironment

from pipeline.errors import Interrupted
from pipeline.preemption import SIGNALS
from pipeline.ranks import rank

LAST_WORDS = 30  # seconds


@dataclass
class Task:
    """The overrides of one job. Several ranks are started by torchrun on this machine, and by srun, which runs the task
    once for each, on Slurm; `alive` is a lock that a sweep on this machine holds as long as it lives, None on Slurm."""

    overrides: list[str]
    environment: dict[str, str]
    ranks: int = 1
    alive: Path | None = None

    def __call__(self) -> str | None:
        """Runs the job; the sentence in which it failed, or None."""
        os.environ.update(self.environment)  # before torch is imported
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it, and the run has not begun to heed it
        if self.alive is not None:
            os.environ.pop("SLURM_JOB_ID", None)  # where the sweep is itself a Slurm job, it asks for the requeue
            threading.Thread(target=_end_with, args=(self.alive,), daemon=True).start()
        overrides = [*self.overrides, "hydra.mode=RUN"]  # the preset may be a sweep: this is one job of it
        if self.ranks == 1:
            return _alone(overrides)
        if self.alive is None:
            return _as_rank_of_srun(overrides)
        _with_torchrun(self.ranks, overrides)
        return None


def _alone(overrides: list[str]) -> str | None:
    from pipeline.cli import main

    try:
        main(overrides)
        return None
    except SystemExit as stop:
        # A job that Slurm interrupts is queued again: submitit must not note it as done.
        if isinstance(stop.__context__, Interrupted) or not isinstance(stop.code, str):
            raise
        return stop.code.removeprefix("sprig: ")


def _as_rank_of_srun(overrides: list[str]) -> str | None:
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    try:
        return _alone(overrides)
    except SystemExit:
        # srun ends all ranks once one fails, and rank 0 has still to say why, or to ask for a requeue.
        if rank() != 0:
            time.sleep(LAST_WORDS)
        raise


def _with_torchrun(ranks: int, overrides: list[str]) -> None:
    from launchers.torchrun import command

    process, signals = subprocess.Popen(command(ranks, overrides)), []

    def hand_on(number: int, _: object) -> None:
        signals.append(number)
        process.terminate()  # torchrun hands SIGTERM on to the ranks

    for number in SIGNALS:
        signal.signal(number, hand_on)
    code = process.wait()
    if signals:
        sys.exit(code)
    if code:
        raise RuntimeError(f"torchrun ended with exit code {code}")


def _end_with(alive: Path) -> None:
    """Ends this process and all below it, once the sweep or this job's controller is gone: SIGKILL tells nobody."""
    controller, lock = os.getppid(), FileLock(alive)
    while os.getppid() == controller:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            time.sleep(1)
        else:
            break
    print("The sweep that started this job has ended: the job stops, too.", file=sys.stderr, flush=True)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os.kill(os.getpid(), signal.SIGKILL)
