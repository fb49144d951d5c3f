"""What SIGTERM, and the SIGUSR1 that Slurm can send, do to a run: it stops where nothing is lost.

Work that can lose little ends at once; a training notes the signal and ends after a checkpoint. Under Slurm the job
then asks to be queued again.
"""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import Interrupted
from pipeline.ranks import rank

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

log = logging.getLogger("sprig")


class _Caught:
    name: str | None = None
    deferred = False


def _handle(number: int, _frame: object) -> None:
    _Caught.name = signal.Signals(number).name
    if not _Caught.deferred:
        raise _ended()


def check() -> None:
    """Raises the Interrupted of a signal that came before: a library may have caught the one that it raised."""
    if _Caught.name is not None:
        raise _ended()


def _ended() -> Interrupted:
    return Interrupted(f"{_Caught.name} ended this run: the same command resumes from here.")


@contextmanager
def preemptible() -> Iterator[None]:
    """A run that a signal ends with Interrupted; under Slurm, it then asks for a requeue.

    Only the main thread may take signals; in another one they keep their meaning.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    except Interrupted:
        if rank() == 0:
            requeue()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Caught.name = None


@contextmanager
def deferred() -> Iterator[Callable[[], str | None]]:
    """Inside, a signal is only noted: what is handed out tells its name, or None. One not heeded ends the run after."""
    _Caught.deferred = True
    try:
        yield lambda: _Caught.name
    finally:
        _Caught.deferred = False
    check()


def requeue() -> None:
    """Asks Slurm to queue this job again, where it is one; not a job that someone cancels, which no longer runs."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        state = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60)
        if state.returncode == 0 and "JobState=RUNNING" not in state.stdout:
            log.info("Slurm is ending job %s: it is not requeued.", job)
            return
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        problem = asked.stderr.strip() if asked.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem is None:
        log.info("Slurm was asked to queue job %s again.", job)
    else:
        log.warning("Slurm does not requeue job %s (%s): submit the same command again.", job, problem)
