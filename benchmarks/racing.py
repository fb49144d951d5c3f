"""Evaluated tokens and final fitness of the quickstart's search with racing and without, over ten seeds.

Seeds 0 to 4 are not among them: rule and confidence were chosen by replaying the plain searches of these.
Teacher, bin, space and ordering are the quickstart's. A candidate is scored on 16 blocks of 64 tokens, so that racing
has blocks to save and the whole takes half an hour of one core. Losses are kept in outputs/benchmarks, because the two
searches, and runs of this script, ask for many of the same: tokens are counted as a search alone would evaluate them.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pipeline
from benchmarks.harness import arguments, report
from benchmarks.searching import Kept, prepared, searched
from pipeline.config import RacingConfig
from pipeline.search.evaluator import Evaluator
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots

SEEDS, BLOCKS, LENGTH = range(5, 15), 16, 64
KEPT = Path("outputs/benchmarks/racing/losses.jsonl")


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    context = prepared(Context(pipeline.compose(["experiment=quickstart", "precision=fp32"]), log=lambda line: None))
    racing = RacingConfig(enabled=True)
    plain = replace(context.config.search, blocks=BLOCKS, batch=BLOCKS)
    raced = replace(plain, racing=racing)
    made = roots(context)
    blocks = context.evenly(made.tokens, "calibration", BLOCKS, "BLOCKS")[:, : LENGTH + 1]
    model = context.teacher(made.teacher, context.config.teacher)
    # The same parts for both, so that what one has scored serves the other.
    ordering = order.load(context, made.ordering)
    evaluator = Evaluator(model, ordering, blocks, "fp32", BLOCKS, cuts=raced.cuts(), prefix_bytes=1 << 28)
    scorer = Kept(evaluator, KEPT)
    rows, figures = [], {}
    for seed in SEEDS:
        found = {
            name: searched(context, config, scorer, seed, LENGTH)
            for name, config in (("plain", plain), ("racing", raced))
        }
        (fitness, all_tokens), (raced_fitness, raced_tokens) = found["plain"], found["racing"]
        figures |= {
            f"seed{seed}_plain_fitness": fitness,
            f"seed{seed}_racing_fitness": raced_fitness,
            f"seed{seed}_fitness_ratio": raced_fitness / fitness,
            f"seed{seed}_token_ratio": raced_tokens / all_tokens,
        }
        rows.append([str(seed), f"{all_tokens:,}", f"{raced_tokens:,}", f"{raced_tokens / all_tokens:.2f}"])
        rows[-1] += [f"{fitness:,.1f}", f"{raced_fitness:,.1f}", f"{raced_fitness / fitness:.3f}"]
    for name in ("token_ratio", "fitness_ratio"):
        figures[name] = mean(figures[f"seed{seed}_{name}"] for seed in SEEDS)
    rows.append(["mean", "", "", f"{figures['token_ratio']:.2f}", "", "", f"{figures['fitness_ratio']:.3f}"])
    report(
        f"{plain.strategy} in the quickstart's bin, {BLOCKS} blocks of {LENGTH} tokens",
        ["seed", "tokens", "racing", "ratio", "best perplexity", "racing", "ratio"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
