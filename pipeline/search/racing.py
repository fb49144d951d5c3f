"""Racing: a candidate that is beaten beyond doubt on the blocks so far is scored on no more of them.

The doubt is that of a paired comparison: two candidates' losses differ far less from block to block than either's own,
and the blocks are a sample, without replacement, of all that a search scores on.
"""

import math
from collections.abc import Sequence

from scipy import stats

from pipeline.search.fitness import mean


def is_beaten(losses: Sequence[float], rival: Sequence[float], of: int, confidence: float) -> bool:
    """Whether the mean loss on `of` blocks is above the rival's, by a one-sided paired t-test on the first of them.

    The standard error has the correction for a finite population: with all blocks known nothing is in doubt.
    """
    known, mine, theirs = len(losses), mean(losses), mean(rival)
    if known < 2 or not (math.isfinite(mine) and math.isfinite(theirs)):
        return math.isfinite(theirs) and not math.isfinite(mine)
    excess = mine - theirs
    variance = sum((a - b - excess) ** 2 for a, b in zip(losses, rival, strict=True)) / (known - 1)
    error = math.sqrt(variance / known * (of - known) / of)
    return excess > stats.t.ppf(confidence, known - 1) * error


class Race:
    """One asked batch. `losses` has everybody's losses by key and grows from outside; `finished` are the keys of former
    candidates that are known on all `of` blocks; the strategy goes on from the best `places` of all."""

    def __init__(self, losses: dict[str, list[float]], finished: list[str], places: int, of: int, confidence: float):
        self.losses, self.places, self.of, self.confidence = losses, places, of, confidence
        self.finished = sorted(finished, key=lambda key: mean(losses[key]))[:places]
        self.stopped: list[tuple[str, str]] = []  # (who, by whom), in the order of their stops

    def stop(self, running: list[str], blocks: int) -> list[str]:
        """Those of `running`, all scored on so many blocks, that go on: all but who is beaten by the last of the best
        `places`."""
        field = sorted([*self.finished, *running], key=lambda key: mean(self.losses[key][:blocks]))
        rival = field[min(self.places, len(field)) - 1]
        theirs = self.losses[rival][:blocks]
        beaten = [key for key in running if is_beaten(self.losses[key][:blocks], theirs, self.of, self.confidence)]
        self.stopped += [(key, rival) for key in beaten]
        return [key for key in running if key not in beaten]

    def told(self) -> dict[str, float]:
        """For each who was stopped, its mean loss on all blocks as far as is known: the loss of who stopped it, plus
        their mean difference on the blocks that both were scored on. So none ranks before who beat it."""
        estimates: dict[str, float] = {}
        for key, rival in reversed(self.stopped):  # a rival is stopped later, if at all
            known = len(self.losses[key])
            theirs = estimates[rival] if rival in estimates else mean(self.losses[rival])
            estimates[key] = theirs + mean(self.losses[key]) - mean(self.losses[rival][:known])
        return estimates
