"""Racing: a candidate whose place is decided beyond doubt, in or out, is scored on no more blocks.

A selection race (Heidrich-Meisner and Igel, ICML 2009, after Maron and Moore's Hoeffding races): besides the losers it
also stops the sure winners, because a strategy that goes on from its best few need not know them more exactly. The
doubt is that of a randomised block design: what a block costs all candidates alike cancels, and the rest has one
variance, estimated from all who still run, so that a comparison on two blocks already decides something.
"""

import math

from scipy import stats

from pipeline.search.fitness import mean


def least_difference(losses: list[list[float]], of: int, confidence: float) -> float:
    """The difference of two candidates' mean losses from which on the better one is better on all `of` blocks, too.

    Fisher's least significant difference, one-sided, from `losses` (candidates, first blocks), two of each at least;
    with the correction for a finite population, because the blocks are a sample, without replacement, of `of`.
    """
    count, known = len(losses), len(losses[0])
    rows, columns = [mean(row) for row in losses], [mean(column) for column in zip(*losses, strict=True)]
    middle, freedom = mean(rows), (count - 1) * (known - 1)
    residuals = (
        loss - row - column + middle
        for row, own in zip(rows, losses, strict=True)
        for column, loss in zip(columns, own, strict=True)
    )
    variance = math.fsum(residual**2 for residual in residuals) / freedom
    return stats.t.ppf(confidence, freedom) * math.sqrt(2 * variance / known * (of - known) / of)


class Race:
    """One race for `places`. `losses` has everybody's losses by key and grows from outside; `field` are the keys of all
    who may have a place, former candidates first."""

    def __init__(self, losses: dict[str, list[float]], field: list[str], places: int, of: int, confidence: float):
        self.losses, self.field, self.places, self.of, self.confidence = losses, field, places, of, confidence
        self.running, self.chosen = field, []

    def decide(self, blocks: int, is_last: bool = False) -> None:
        """Leaves in `running`, all of whom are scored on so many blocks, those whose place is in doubt; none where it
        is the last time: then the better ones so far have the places that are left."""
        finite = [key for key in self.running if math.isfinite(mean(self.losses[key]))]
        first = {key: self.losses[key][:blocks] for key in finite}
        level = {key: mean(losses) for key, losses in first.items()}
        ranked = sorted(finite, key=level.__getitem__)
        free = self.places - len(self.chosen)
        if len(ranked) <= free or is_last:
            self.chosen, self.running = self.chosen + ranked[:free], []
            return
        doubt = least_difference(list(first.values()), self.of, self.confidence)
        last_in, first_out = level[ranked[free - 1]], level[ranked[free]]
        self.chosen = self.chosen + [key for key in ranked[:free] if first_out - level[key] > doubt]
        self.running = [key for key in finite if key not in self.chosen and level[key] - last_in <= doubt]

    def best(self, count: int) -> list[str]:
        """The best of the chosen, as far as is known; anyone where none has a finite loss."""
        finite = [key for key in self.chosen if math.isfinite(mean(self.losses[key]))]
        known = max(finite, key=lambda key: len(self.losses[key]), default=None)
        return sorted(finite, key=lambda key: self._behind(key, known))[:count] or self.field[:1]

    def estimates(self, reference: str) -> dict[str, float]:
        """Everybody's mean loss on all blocks as far as is known: that of `reference`, who is known on all, plus the
        mean difference on the blocks that both were scored on."""
        return {key: mean(self.losses[reference]) + self._behind(key, reference) for key in self.field}

    def _behind(self, key: str, other: str) -> float:
        return mean([a - b for a, b in zip(self.losses[key], self.losses[other], strict=False)])
