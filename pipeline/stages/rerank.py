"""Stage rerank: the best candidates of the search, each trained for a short while; the lowest loss wins."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.artifacts import Recipe, write_json
from pipeline.search import forecast
from pipeline.search import journal as journals
from pipeline.search import rerank as search_rerank
from pipeline.search.journal import Journal
from pipeline.stages import search, short
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.about import FoundFitness
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.value import SubNetwork

STAGE, VERSION = "rerank", 1
JOURNAL, COSTS = "rerank.jsonl", "costs.json"


def _budget(context: Context) -> tuple[int, float]:
    config = context.config.search.rerank
    return config.tokens, config.lr or context.config.distill.lr


def check(context: Context) -> None:
    """Raises SprigError as short.check."""
    if context.config.search.rerank.candidates and STAGE in context.config.stages:
        short.check(context, "search.rerank.tokens", *_budget(context))


def flops(context: Context, forward: int) -> int:
    """Of one candidate whose forward pass costs `forward` FLOPs per token."""
    return short.flops(context, forward, *_budget(context))


def expected(context: Context) -> int:
    """How many candidates are trained: no more than the search has."""
    config = context.config
    searched = forecast.expected(config.search, config.data.block_size)
    most = config.search.rerank.candidates
    return most if searched is None else min(most, searched.evaluations)


def recipe(context: Context, roots: Roots, searched: Recipe) -> Recipe:
    config = context.config
    own = {
        "candidates": config.search.rerank.candidates,
        **short.recipe_part(context, roots, *_budget(context)),
        "batch": config.evaluate.batch,
    }
    return Recipe(STAGE, VERSION, own, {"search": searched.fingerprint})


def make(context: Context, recipe: Recipe, folder: Path, roots: Roots, searched: Recipe) -> None:
    """Losses are on the search's calibration blocks: the validation blocks that the run is judged by choose nothing."""
    config, (tokens, lr) = context.config.search, _budget(context)
    blocks = context.evenly(roots.tokens, "calibration", config.blocks, "search.blocks")
    found = context.made(searched) / search.JOURNAL
    candidates = search_rerank.best_of(found, config.rerank.candidates)
    known = _known(context, recipe)

    def train(sub: SubNetwork) -> float:
        if sub.key in known:
            return known[sub.key]
        student = short.start(context, roots, sub)
        return short.train(context, roots, sub, student, tokens, lr, blocks, folder / short.SCRATCH)

    journal = Journal(folder / JOURNAL, recipe.fingerprint)
    best = search_rerank.rerank(candidates, train, journal, lambda line: context.log({"role": "rerank"} | line))
    journal.close()
    shutil.rmtree(folder / short.SCRATCH, ignore_errors=True)  # empty, unless another rerank finished a training
    forward = partial(flops_per_token, context.architecture, length=context.config.data.block_size)
    fitness: FoundFitness = {"measure": f"loss after {tokens:,} tokens of training", "value": best.fitness}
    search.write_winner(context, folder, best.subnetwork, fitness)
    write_json(
        folder / COSTS,
        {
            "candidates": len(candidates),
            "tokens": tokens,
            "lr": lr,
            "flops": sum(flops(context, forward(sub)) for sub in candidates),
            "loss": best.fitness,
            "rank": 1 + candidates.index(best.subnetwork),
        },
    )


def winner(context: Context, found: Recipe) -> SubNetwork:
    """The sub-network that a search or its rerank found."""
    return SubNetwork.from_dict(json.loads((context.made(found) / search.WINNER).read_text()))


def _known(context: Context, wanted: Recipe) -> dict[str, float]:
    """The losses that candidates, by key, reached in reranks of the store which took more of them, or fewer."""
    candidates = {"candidates": wanted.config["candidates"]}
    alike = [
        other
        for other in context.store.recipes(STAGE)
        if replace(other, config=other.config | candidates).fingerprint == wanted.fingerprint
    ]
    folders = filter(None, map(context.store.find, alike))
    return {line["key"]: line["fitness"] for folder in folders for line in journals.read(folder / JOURNAL)}
