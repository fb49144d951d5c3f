"""Rerank: what the best candidates of a search reach after a short training decides which of them wins."""

import math
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import SprigError
from pipeline.progress import Progress
from pipeline.search.journal import Journal, read
from pipeline.search.strategies.protocol import Scored, by_fitness
from pipeline.subnetwork.value import SubNetwork


def best_of(journal: Path, count: int | None = None) -> list[SubNetwork]:
    """The `count` best distinct candidates of a finished search, best first; fewer where it has no more with a finite
    loss, and without a count all of them."""
    lines = [line for line in read(journal) if math.isfinite(line["fitness"])]
    ranked = by_fitness(Scored(line["subnetwork"], line["fitness"]) for line in lines)
    return list(dict.fromkeys(each.subnetwork for each in ranked))[:count]


def rerank(
    candidates: list[SubNetwork],
    train: Callable[[SubNetwork], float],
    journal: Journal,
    log: Callable[[dict], None],
) -> Scored:
    """The candidate that reaches the lowest loss, in nats per token; equal ones keep the order given.

    What the journal already knows is not trained again. `train` gives the loss that a sub-network reaches, inf where
    its training failed: such a candidate is recorded, and never the winner.

    Raises:
        SprigError: no candidate reached a finite loss.
    """
    ranked = []
    with Progress("rerank", total=len(candidates), unit="candidates") as progress:
        for candidate in candidates:
            known = journal.losses.get(candidate.key)
            each = Scored(candidate, known[0] if known else train(candidate))
            ranked.append(each)
            if not known:
                log(journal.add(candidate, [each.fitness], each.fitness))
            progress.advance(1, best=f"{min(one.fitness for one in ranked):.3f}")
    best = by_fitness(ranked)[0]
    if math.isinf(best.fitness):
        raise SprigError(
            f"None of {len(ranked)} reranked candidates was trained to a finite loss: lower search.rerank.lr."
        )
    return best
