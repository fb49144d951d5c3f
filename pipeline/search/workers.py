"""Evaluation on several processes of this machine: one a GPU where there are GPUs, else the cores shared out.

What is found does not depend on their number: a loss depends on nothing but its candidate and block, and the journal
is in ask order. On a CPU a worker has fewer threads than a lone process, and MKL may then sum otherwise where sizes are
odd: by 1e-8 nats now and then. It never did with the default steps (see benchmarks/NOTES.md), nor does it where every
evaluation has one thread, OMP_NUM_THREADS=1.
"""

import logging
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from pipeline.errors import SprigError
from pipeline.models.checkpoint import reason
from pipeline.search.evaluator import Task
from pipeline.search.loop import Scorer
from pipeline.search.prefixes import arrange

log = logging.getLogger("sprig")
DEATHS = 3  # of workers at one candidate, before it is the candidate that is to blame


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    pipe: Connection


class Workers:
    """A scorer of `count` processes, each with the scorer that `make(number)` makes there; `make` must pickle. It is
    to be closed."""

    def __init__(self, count: int, make: Callable[[int], Scorer]):
        self.make, self.threads = make, max(torch.get_num_threads() // count, 1)
        self._workers = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> _Worker:
        context = get_context("spawn")  # a forked process could not use CUDA
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.make, number, self.threads), daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here
        return _Worker(number, process, ours)

    def run(self, tasks: list[Task]) -> Iterator[tuple[int, list[float]]]:
        """As Scorer.run. A task whose worker dies is given to a new one, and the death is reported.

        Raises:
            SprigError: workers died at the same candidate time and again, one could not start, or an evaluation failed.
        """
        # Neighbours in this order begin with the same layers, so each worker gets a stretch of it.
        order, count = arrange([task.subnetwork for task in tasks]), len(self._workers)
        stretches = [deque(order[n * len(order) // count : (n + 1) * len(order) // count]) for n in range(count)]
        deaths: Counter[int] = Counter()
        busy: dict[Connection, tuple[_Worker, int]] = {}

        def give(worker: _Worker, number: int | None = None) -> None:
            if number is None:
                own, longest = stretches[worker.number], max(stretches, key=len)
                if not longest:
                    return
                number = own.popleft() if own else longest.pop()
            try:
                worker.pipe.send(tasks[number])
            except OSError:  # it died between two tasks; its end of the pipe says so below
                log.debug("worker %d does not take a task", worker.number)
            busy[worker.pipe] = worker, number

        for worker in self._workers:
            give(worker)
        while busy:
            for pipe in connection.wait(list(busy)):
                worker, number = busy.pop(pipe)
                try:
                    losses = pipe.recv()
                except (EOFError, OSError):
                    deaths[number] += 1
                    give(self._replace(worker, tasks[number], deaths[number]), number)
                    continue
                if isinstance(losses, str):
                    raise SprigError(f"{losses}.")
                give(worker)
                yield number, losses

    def _replace(self, worker: _Worker, task: Task, deaths: int) -> _Worker:
        worker.process.join()
        code = worker.process.exitcode
        if code >= 0:  # not killed: `_serve` answers with whatever fails, so it never came to that
            raise SprigError(
                f"Search worker {worker.number} could not start (exit code {code}, its error is above): where a script "
                "calls pipeline.run, it must be a file, with the call under if __name__ == '__main__':."
            ) from None
        died = f"Search worker {worker.number} died (exit code {code})"
        if deaths == DEATHS:
            raise SprigError(
                f"{died}, the {DEATHS}rd time at candidate {task.subnetwork.key}: is there memory for "
                f"search.workers={len(self._workers)}? The same command goes on from here."
            ) from None
        log.warning("%s; its candidate %s is evaluated again.", died, task.subnetwork.key)
        self._workers[worker.number] = self._start(worker.number)
        return self._workers[worker.number]

    def close(self) -> None:
        """Ends the processes; those that are still at work are not waited for."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
            worker.process.join()


def _serve(pipe: Connection, make: Callable[[int], Scorer], number: int, threads: int) -> None:
    """A worker's life, which ends with the pipe: also where the search was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the search says so, and ends its workers
    torch.set_num_threads(threads)
    try:
        scorer, failure = make(number), None
    except Exception as error:
        scorer, failure = None, f"Search worker {number} could not start: {_said(error)}"
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        answer = failure
        if scorer is not None:
            try:
                ((_, answer),) = scorer.run([task])
            except Exception as error:
                answer = f"A candidate could not be evaluated: {_said(error)}"
        pipe.send(answer)


def _said(error: Exception) -> str:
    return reason(error) if isinstance(error, SprigError) else f"{type(error).__name__}: {reason(error)}"
