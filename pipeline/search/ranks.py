"""Evaluation on all processes of torchrun, on one machine or many: rank 0 searches, and every rank evaluates its share.

The result does not depend on their number: a loss depends only on its candidate and block, and the journal is in ask
order. On a CPU each of several ranks has fewer threads than a single process, and MKL may then sum in another order
where sizes are odd, which changes a loss by 1e-8 nats now and then. This never happened with the default steps (see
benchmarks/NOTES.md), and it cannot where every evaluation has one thread, OMP_NUM_THREADS=1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import distributed

from pipeline.errors import Interrupted, SprigError, reason
from pipeline.search.loop import Scorer
from pipeline.subnetwork.value import SubNetwork


@dataclass
class _Share:
    """What one rank made of its candidates: the losses by a candidate's number, and why it ended early."""

    losses: dict[int, list[float]] = field(default_factory=dict)
    failure: str | None = None
    signal: str | None = None


class Ranks:
    """Rank 0 uses it as a scorer and closes it at the end of its search; the others `serve` until then.

    Args:
        own: this rank's scorer.
        group: of all ranks, None for the default one. With gloo a rank that died is an error at once; NCCL would wait.
        signalled: the signal that ends this process, or None. Signals must be held back meanwhile, so that all
            ranks end after the same share.
    """

    def __init__(self, own: Scorer, group: distributed.ProcessGroup | None, signalled: Callable[[], str | None]):
        self.own, self.group, self.signalled = own, group, signalled
        self.rank, self.count = distributed.get_rank(group), distributed.get_world_size(group)
        self._open = True

    def run(self, candidates: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        """As Scorer.run, on rank 0; the losses come when all ranks are done.

        Raises:
            Interrupted: a signal came to some rank; what was evaluated until then has been yielded.
            SprigError: an evaluation failed, or a rank died.
        """
        if candidates:
            self._hand_out(candidates)
            shares = self._evaluate(candidates)
            for share in shares:
                yield from share.losses.items()
            self._check(shares)

    def serve(self) -> None:
        """Another rank's part, until rank 0 closes. Raises as `run`."""
        while (candidates := self._hand_out(None)) is not None:
            self._check(self._evaluate(candidates))

    def close(self) -> None:
        """Tells the other ranks to stop serving, unless they have already stopped with this one."""
        if self._open:
            self._hand_out(None)

    def _hand_out(self, candidates: list[SubNetwork] | None) -> list[SubNetwork] | None:
        """Rank 0's candidates, on every rank; None where the search is over."""
        message = [candidates]
        self._together(lambda: distributed.broadcast_object_list(message, src=0, group=self.group))
        return message[0]

    def _evaluate(self, candidates: list[SubNetwork]) -> list[_Share]:
        own, mine = _Share(), range(self.rank, len(candidates), self.count)
        try:
            for number, losses in self.own.run([candidates[number] for number in mine]):
                own.losses[mine[number]] = losses
                if self.signalled():
                    break
        except Exception as error:  # the others wait for this share
            own.failure = f"{type(error).__name__}: {reason(error)}"
        own.signal = self.signalled()
        shares = [own] * self.count
        self._together(lambda: distributed.all_gather_object(shares, own, group=self.group))
        self._open = not any(share.failure or share.signal for share in shares)
        return shares

    def _check(self, shares: list[_Share]) -> None:
        """The same on every rank, so that all of them leave together."""
        for share in shares:
            if share.failure:
                raise SprigError(f"A candidate could not be evaluated: {share.failure}.")
        for share in shares:
            if share.signal:
                raise Interrupted(f"{share.signal} ended the search: the same command resumes from its journal.")

    def _together(self, collective: Callable[[], None]) -> None:
        try:
            collective()
        except RuntimeError as error:
            self._open = False
            raise SprigError(
                f"One of the {self.count} evaluating processes died, so the search stops ({reason(error)}): its own "
                "output, above, may say why; the same command resumes from the journal."
            ) from error
