"""Part of the search stage: its best candidates are trained for a short while (`search.rerank`)."""

from functools import partial
from pathlib import Path

from pipeline.search import rerank as search_rerank
from pipeline.search.journal import Journal
from pipeline.stages import prepare, short
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.value import SubNetwork

JOURNAL = "rerank.jsonl"


def _budget(context: Context) -> tuple[int, float]:
    config = context.config.search.rerank
    return config.tokens, config.lr or context.config.distill.lr


def check(context: Context) -> None:
    """Raises SprigError as short.check."""
    short.check(context, "search.rerank.tokens", *_budget(context))


def recipe_part(context: Context) -> dict:
    return {"candidates": context.config.search.rerank.candidates} | short.recipe_part(context, *_budget(context))


def rerank(context: Context, journal: Path, folder: Path, fingerprint: str) -> tuple[SubNetwork, dict]:
    """The winner after a short training of the best that `journal` has, and what it took. Losses are on the search's
    calibration blocks: the validation blocks that the run is judged by choose nothing."""
    config, (tokens, lr) = context.config.search, _budget(context)
    text = prepare.tokens_step(context).recipe
    blocks = context.evenly(text, "calibration", config.blocks, "search.blocks")
    candidates = search_rerank.best_of(journal, config.blocks, config.rerank.candidates)
    reranked = Journal(folder / JOURNAL, fingerprint)
    best = search_rerank.rerank(
        candidates,
        lambda sub: short.train(context, sub, tokens, lr, blocks, folder / "rerank"),
        reranked,
        lambda line: context.log({"role": "rerank"} | line),
    )
    reranked.close()
    forward = partial(flops_per_token, context.architecture, length=context.config.data.block_size)
    return best.subnetwork, {
        "candidates": len(candidates),
        "tokens": tokens,
        "lr": lr,
        "flops": sum(short.flops(context, forward(sub), tokens, lr) for sub in candidates),
        "loss": best.fitness,
        "rank": 1 + candidates.index(best.subnetwork),
    }
