"""Stage study: sub-networks of the bin, each measured by every fitness and then trained.

Which fitness best predicted the trained loss?
"""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from litgpt import GPT
from torch import Tensor

from pipeline.artifacts import Recipe, write_atomically, write_json
from pipeline.config import Fitness, SearchConfig, material
from pipeline.config import Strategy as Kind
from pipeline.config.study import FEWEST
from pipeline.errors import SprigError
from pipeline.evaluation.correlation import correlations
from pipeline.models.perplexity import mean_nll
from pipeline.search.fitness import fitness_of
from pipeline.search.forecast import expected
from pipeline.search.loop import Scorer
from pipeline.search.rerank import best_of
from pipeline.search.strategies.protocol import Novelty
from pipeline.stages import measures, order, recover, scoring, search, short
from pipeline.stages.context import Context
from pipeline.stages.measures import REACHED
from pipeline.stages.roots import Roots
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

STAGE, VERSION = "study", 3
POINTS, RESULT = "points.csv", "study.json"
RANDOM, BOOTSTRAP = 8, 9  # purposes of the generators


def check(context: Context) -> None:
    """Whether there can be as many sub-networks as the study asks for, and its trainings.

    Raises:
        SprigError: they cannot, and the cure.
    """
    config, searching = context.config.study, context.config.search
    if not _asked(context):
        return
    tokens, lr = budget(context)
    for shorter in config.short:
        if shorter >= tokens:
            raise SprigError(
                f"study.short={shorter:,} is not shorter than the training that it should predict, study.tokens="
                f"{tokens:,}: lower it, or raise study.tokens."
            )
        short.check(context, "study.short", shorter, lr)
    short.check(context, "study.tokens", tokens, lr)
    scored = expected(searching, context.config.data.block_size)
    if scored is not None and config.searched > scored.evaluations:
        raise SprigError(
            f"study.searched={config.searched}, but search {searching.strategy} scores at most {scored.evaluations} "
            "candidates: lower it, or search for longer."
        )
    _draw(context, context.space(Ordering.identity(context.architecture)), [], config.subnetworks)


def check_searched(context: Context, searched: Recipe) -> None:
    """Whether the search, now that it is made, has as many candidates as the study takes of it.

    Raises:
        SprigError: it has fewer: a limit in FLOPs, say, ended it early.
    """
    if _asked(context):
        _searched(context, searched)


def _asked(context: Context) -> bool:
    return context.config.study.subnetworks > 0 and STAGE in context.config.stages


def recipe(context: Context, roots: Roots, searched: Recipe | None) -> Recipe:
    """`searched` is the search that the study takes candidates of; None where it takes none."""
    config, (tokens, lr) = context.config, budget(context)
    own = material(config.study, "tokens", "short") | {
        REACHED: short.recipe_part(context, roots, tokens, lr),
        "short": [short.recipe_part(context, roots, each, lr) for each in config.study.short],
        "calibration": {"blocks": config.search.blocks, "batch": config.search.batch},
        "validation": {"blocks": config.evaluate.blocks, "batch": config.evaluate.batch},
        "space": search.space_part(context),
        "bin": search.edges(context),
    }
    return Recipe(STAGE, VERSION, own, roots.inputs | ({"search": searched.fingerprint} if searched else {}))


def flops(context: Context, sub: SubNetwork) -> int:
    """Of one sub-network: every fitness, its recovery, and every training."""
    config, (tokens, lr) = context.config, budget(context)
    forward = flops_per_token(context.architecture, sub, length=config.data.block_size)
    trainings = [short.flops(context, forward, each, lr) for each in (*config.study.short, tokens)]
    recovery = recover.flops(context, sub) if recover.applies(context, "student") else 0
    before = len(fitnesses(context)) - len(config.study.short)
    untrained = before * config.search.blocks * config.data.block_size * forward
    return untrained + recovery + sum(trainings)


def fitnesses(context: Context) -> list[str]:
    """What should predict the loss reached."""
    recovered = [measures.RECOVERED] if recover.applies(context, "student") else []
    return [*map(str, Fitness), *recovered, *(measures.short(tokens) for tokens in context.config.study.short)]


def budget(context: Context) -> tuple[int, float]:
    """Tokens and learning rate of the training whose loss should be predicted."""
    return context.config.study.tokens or context.config.distill.tokens, context.config.distill.lr


def make(context: Context, recipe: Recipe, folder: Path, roots: Roots, searched: Recipe | None) -> None:
    config, (tokens, lr) = context.config, budget(context)
    calibration = context.evenly(roots.tokens, "calibration", config.search.blocks, "search.blocks")
    validation = context.evenly(roots.tokens, "validation", config.evaluate.blocks, "evaluate.blocks")
    chosen = _chosen(context, roots, searched)
    known = measures.elsewhere(context, recipe)
    measured = partial(measures.measured, folder, recipe.fingerprint, list(chosen), known)
    values: dict[str, list[float]] = {}
    for fitness in Fitness:
        with scoring.scorer(context, _alone(config.search, fitness), roots) as scorer:
            values |= measured({str(fitness): partial(_untrained, scorer, fitness)})
    start = lru_cache(1)(partial(short.start, context, roots))  # of one sub-network, for all its trainings
    recovered = {measures.RECOVERED: lambda sub: _perplexity(context, start(sub), calibration)}
    trainings = [(measures.short(each), each, calibration) for each in config.study.short]
    scratch, train = folder / short.SCRATCH, partial(_trained, context, roots, start, lr=lr)
    trained = {
        name: partial(train, tokens=each, held_out=blocks, folder=scratch / name)
        for name, each, blocks in (*trainings, (REACHED, tokens, validation))
    }
    values |= measured((recovered if recover.applies(context, "student") else {}) | trained)
    shutil.rmtree(scratch, ignore_errors=True)  # empty, unless another study finished a training
    points = [
        {
            "subnetwork": sub.key,
            "from": origin,
            "parameters": parameters(context.architecture, sub, context.bin.count),
            "n_layer": sub.n_layer,
            **{name: values[name][number] for name in values},
        }
        for number, (sub, origin) in enumerate(chosen.items())
    ]
    write_atomically(folder / POINTS, _csv(points))
    write_json(
        folder / RESULT,
        {
            **{key: getattr(config.study, key) for key in ("random", "searched", "resamples", "confidence")},
            "tokens": tokens,
            "lr": lr,
            "flops": sum(flops(context, sub) for sub in chosen),
            "correlations": _correlations(context, points),
            "points": [{key: None if value == math.inf else value for key, value in each.items()} for each in points],
        },
    )


def _untrained(scorer: Scorer, fitness: Fitness, sub: SubNetwork) -> float:
    [(_, losses)] = scorer.run([sub])
    return fitness_of(fitness, losses)


def _perplexity(context: Context, student: GPT, blocks: Tensor) -> float:
    """On `blocks` (n, T + 1)."""
    loss = mean_nll(student, blocks, context.config.search.batch, context.precision)
    return fitness_of(Fitness.perplexity, [loss])


def _trained(context: Context, roots: Roots, start: Callable[[SubNetwork], GPT], sub: SubNetwork, **how: Any) -> float:
    return short.train(context, roots, sub, deepcopy(start(sub)), **how)


def _alone(config: SearchConfig, fitness: Fitness) -> SearchConfig:
    """What evaluates one candidate at a time."""
    return replace(config, strategy=Kind.random, path=None, start=[], fitness=fitness)


def _chosen(context: Context, roots: Roots, searched: Recipe | None) -> dict[SubNetwork, str]:
    """Distinct sub-networks, each with where it is from: "searched", best first, then "random"."""
    found = _searched(context, searched)
    drawn = _draw(context, context.space(order.load(context, roots.ordering)), found, context.config.study.random)
    return dict.fromkeys(found, "searched") | dict.fromkeys(drawn, "random")


def _searched(context: Context, searched: Recipe | None) -> list[SubNetwork]:
    count = context.config.study.searched
    if searched is None or not count:
        return []
    ranked = best_of(context.made(searched) / search.JOURNAL)
    if count > len(ranked):
        raise SprigError(
            f"study.searched={count}, but the search has {len(ranked)} distinct candidates with a finite loss: lower "
            "it, or search for longer."
        )
    return [ranked[place] for place in np.linspace(0, len(ranked) - 1, count).round().astype(int)]


def _draw(context: Context, space: Space, known: list[SubNetwork], count: int) -> list[SubNetwork]:
    """`count` distinct samples of the bin, none of those known.

    Raises:
        SprigError: the bin seems to hold fewer.
    """
    novelty = Novelty(space)
    novelty.seen |= set(known)
    drawn = []
    for number in range(count):
        rng = np.random.default_rng([context.config.seed, RANDOM, number])
        drawn += novelty.candidates([partial(space.sample, rng)], rng)
    if len(drawn) < count:
        config = context.config.study
        raise SprigError(
            f"study.random={config.random} and study.searched={config.searched} ask for {config.subnetworks} distinct "
            f"sub-networks, but {len(novelty.seen)} were found in the bin {context.bin}: lower them, or widen the bin "
            "or the space."
        )
    return drawn


def _correlations(context: Context, points: list[dict]) -> list[dict]:
    """Of every fitness with the loss reached, among all and among the random ones alone; the draws of the bootstrap are
    the same for every fitness."""
    config = context.config
    found = []
    for fitness in fitnesses(context):
        for among in ("all", "random"):
            part = [point for point in points if among in ("all", point["from"])]
            if len(part) < FEWEST or (among == "random" and len(part) == len(points)):
                continue
            rng = np.random.default_rng([config.seed, BOOTSTRAP])
            first, second = ([point[name] for point in part] for name in (fitness, REACHED))
            found.append(
                {"fitness": fitness, "among": among, "n": len(part)}
                | correlations(first, second, config.study.resamples, config.study.confidence, rng)
            )
    return found


def _csv(points: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, points[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()


def result(folder: Path) -> dict:
    """What a finished study found; a value that was not finite is null."""
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))
