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
from launchers.sweep.record import FAILED, Record
from pipeline.errors import Interrupted
from pipeline.layout import COMPLETED
from pipeline.preemption import check
from pipeline.report.sweep.record import INTERRUPTED

POLL = 0.5  # seconds


@dataclass
class Running:
    job: Job
    slot: Slot
    handle: Handle


def run(jobs: Sequence[Job], place: Place, record: Record, board: Board, fail_fast: bool) -> None:
    """Runs all jobs to their end. However it ends, no job keeps running; a signal leaves those of other machines."""
    waiting, free = list(jobs), deque(place.slots)
    active: list[Running] = []
    try:
        while waiting or active:
            check()
            ready = waiting[: len(free)] if place.elsewhere else _ready(waiting, active, len(free))
            if ready:
                waiting = [job for job in waiting if job not in ready]
                slots = [free.popleft() for _ in ready]
                begun = list(map(Running, ready, slots, place.submit(ready, slots)))
                active += begun
                for each in begun:
                    _begin(each, record, board)
            for each in [each for each in active if each.handle.done()]:
                active.remove(each)
                free.append(each.slot)
                if _close(each, record, board) == FAILED and fail_fast:
                    return
            board.refresh()
            time.sleep(POLL)
    except Interrupted:
        if place.elsewhere:
            active.clear()
        raise
    finally:
        end([each.handle for each in active])
        for each in active:
            # A job that was done in the same moment is not undone.
            state = COMPLETED if each.job.completed() else INTERRUPTED
            record.set(each.job, state, seconds=board.ended(each.job, state))


def _ready(waiting: list[Job], active: list[Running], free: int) -> list[Job]:
    """As many as there are free slots, without those whose training another's, which runs, is about to begin."""
    ready: list[Job] = []
    for job in waiting:
        if len(ready) < free and not any(job.resumes_from(other) for other in [*(each.job for each in active), *ready]):
            ready.append(job)
    return ready


def _begin(each: Running, record: Record, board: Board) -> None:
    paths = each.handle.paths
    submitted = {"job_id": each.handle.job_id, "folder": os.path.relpath(paths.folder, record.folder)}
    log = os.path.relpath(paths.stdout, record.folder)
    record.set(each.job, INTERRUPTED, log=log, submitted=submitted, error=None, seconds=None)
    board.started(each.job)


def _close(each: Running, record: Record, board: Board) -> str:
    state = COMPLETED if each.job.completed() else FAILED
    error = None if state == COMPLETED else _error(each.handle)
    record.jobs[each.job.id]["error"] = error
    record.set(each.job, state, seconds=board.ended(each.job, state))
    return state


def _error(handle: Handle) -> str:
    """The sentence in which a job ended, the error of the rank that failed, or the last lines of its log."""
    output = "\n".join(last_lines(handle.paths.stdout))
    # Rank 0's result first, then those of a Slurm job's other ranks.
    results = [handle.paths.result_pickle, *sorted(handle.paths.folder.glob(f"{handle.job_id}_*_result.pkl"))]
    reports = [pickle.loads(path.read_bytes()) for path in dict.fromkeys(results) if path.exists()]
    for place, (outcome, result) in enumerate(reports):
        if outcome == "error":
            return output if place == 0 and output else result
    if not reports:
        return f"{output}\nThe process exited without output; it may have been killed or run out of memory.".strip()
    why = "a report needs the results of all stages, and conf/ must stay as it is while a sweep runs"
    return reports[0][1] or f"{output}\nThe job ended without all its results: {why}.".strip()
