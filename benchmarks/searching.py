"""What benchmarks of the search share: one search outside a run, and evaluations that are made once."""

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import SearchConfig
from pipeline.search.loop import Scorer
from pipeline.search.once import search_once
from pipeline.search.strategies.registry import make
from pipeline.stages import graph, order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.value import SubNetwork


def prepared(context: Context) -> Context:
    """Teacher, text, ordering and errors of a run are made where they are not there yet."""
    steps = graph.build(context)
    for role in ("teacher", "tokens", "ordering", "errors"):
        if role in steps:
            context.store.obtain(steps[role].recipe, steps[role].make)
    return context


def searched(context: Context, config: SearchConfig, scorer: Scorer, seed: int, length: int) -> tuple[float, int]:
    """Best fitness, and tokens evaluated, in blocks of `length` tokens."""
    strategy = make(config, context.space(order.load(context, roots(context).ordering)), seed)
    best, spent = search_once(config, strategy, scorer, context.architecture, length)
    return best.fitness, spent.tokens


class Kept:
    """A scorer that scores nothing twice, in this process or a later one: losses are in the file."""

    def __init__(self, scorer: Scorer, path: Path):
        self.scorer, self.path = scorer, path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.losses = dict(map(json.loads, lines))

    def run(self, subs: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        new = [sub for sub in subs if sub.key not in self.losses]
        for place, losses in self.scorer.run(new):
            self.losses[new[place].key] = losses
            with self.path.open("a") as file:
                file.write(json.dumps([new[place].key, losses]) + "\n")
        for number, sub in enumerate(subs):
            yield number, self.losses[sub.key]
