"""Runs the jobs of a sweep, as many at a time as there are slots."""

import os
import pickle
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from launchers.sweep.board import Board
from launchers.sweep.clusters import Handle, Place, Slot, end
from launchers.sweep.jobs import Job
from launchers.sweep.logs import last_lines
from launchers.sweep.record import COMPLETED, FAILED, INTERRUPTED, Record

POLL = 0.5  # seconds


@dataclass
class Running:
    job: Job
    slot: Slot
    handle: Handle


def run(jobs: Sequence[Job], place: Place, record: Record, board: Board, fail_fast: bool) -> None:
    """Runs all jobs to their end. However it is left, none of them goes on."""
    waiting, free, active = deque(jobs), deque(place.slots), []
    try:
        while waiting or active:
            if count := min(len(waiting), len(free)):
                taken = [waiting.popleft() for _ in range(count)], [free.popleft() for _ in range(count)]
                active += map(Running, *taken, place.submit(*taken))
                for each in active[-count:]:
                    _begin(each, record, board)
            for each in [each for each in active if each.handle.done()]:
                active.remove(each)
                free.append(each.slot)
                if _close(each, record, board) == FAILED and fail_fast:
                    return
            board.refresh()
            time.sleep(POLL)
    finally:
        end([each.handle for each in active])
        for each in active:
            # A job that was done in the same moment is not undone.
            state = COMPLETED if each.job.completed() else INTERRUPTED
            record.set(each.job, state, seconds=board.ends(each.job, state))


def _begin(each: Running, record: Record, board: Board) -> None:
    paths = each.handle.paths
    submitted = {"job_id": each.handle.job_id, "folder": os.path.relpath(paths.folder, record.folder)}
    log = os.path.relpath(paths.stdout, record.folder)
    record.set(each.job, INTERRUPTED, log=log, submitted=submitted, error=None, seconds=None)
    board.begins(each.job)


def _close(each: Running, record: Record, board: Board) -> str:
    state = COMPLETED if each.job.completed() else FAILED
    error = None if state == COMPLETED else _error(each.handle)
    record.jobs[each.job.id]["error"] = error
    record.set(each.job, state, seconds=board.ends(each.job, state))
    return state


def _error(handle: Handle) -> str:
    """The sentence in which a job ended, or the last lines of its log."""
    said = "\n".join(last_lines(handle.paths.stdout))
    if not handle.paths.result_pickle.exists():
        return f"{said}\nThe process ended without a word: killed, or out of memory?".strip()
    outcome, result = pickle.loads(handle.paths.result_pickle.read_bytes())
    if outcome == "success":
        return result or f"{said}\nThe job ended without its artifacts: did conf/ change since the sweep began?".strip()
    return said or result
