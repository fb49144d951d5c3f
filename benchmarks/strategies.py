"""Search strategies on the embedded teacher at the quickstart's bin and space, at equal evaluated tokens.

Losses are kept in outputs/benchmarks and shared by all strategies and seeds, so that an interrupted benchmark
resumes where it stopped, and a finished one prints its table at once.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pipeline
from benchmarks.harness import arguments, report
from benchmarks.searching import Kept, prepared, searched
from pipeline.artifacts import digest
from pipeline.config import LimitConfig
from pipeline.search.evaluator import Evaluator
from pipeline.stages import order, prepare
from pipeline.stages.context import Context
from pipeline.stages.roots import roots

COUNTS = (36, 96)  # evaluations on all blocks that the tokens pay for; 36 are the quickstart's
SEEDS = range(5)
QUICKSTART = ["experiment=quickstart", "search=evolution", "precision=fp32", "search.generations=1000"]
SMALL = ["search.offspring=8"]  # as many as children and mutants of the quickstart's evolution
# Overrides of the quickstart, and the seeds and counts that a strategy is run with.
STRATEGIES = {
    "uniform": (["search.strategy=uniform"], [0], COUNTS[:1]),
    "importance": (["search.strategy=importance"], [0], COUNTS[:1]),
    "first_layers": (["search.strategy=first_layers", "space.layers=prefix"], [0], COUNTS[:1]),
    "random": (["search.strategy=random", "search.evaluations=1000"], SEEDS, COUNTS),
    "evolution": ([], SEEDS, COUNTS),
    "local": (["search.strategy=local", *SMALL], SEEDS, COUNTS[:1]),
    "one_plus_lambda": (["search.strategy=one_plus_lambda", *SMALL], SEEDS, COUNTS[:1]),
}


def context_of(overrides: list[str]) -> Context:
    return prepared(Context(pipeline.compose([*QUICKSTART, *overrides]), lambda line: None))


def keeping(context: Context) -> Kept:
    """Losses by teacher, text and ordering."""
    config, tokens = context.config.search, prepare.tokens_recipe(context)
    teacher = context.teacher(prepare.teacher_recipe(context, context.config.teacher), context.config.teacher)
    blocks = context.evenly(tokens, "calibration", config.blocks, "search.blocks")
    evaluator = Evaluator(
        teacher,
        order.load(context, roots(context).ordering),
        blocks,
        context.precision,
        config.batch,
    )
    name = digest([tokens.fingerprint, roots(context).ordering_fingerprint, config.blocks, context.precision])
    return Kept(evaluator, Path(context.config.outputs) / "benchmarks" / f"candidates-{name}.jsonl")


def best_of(scorer: Kept, overrides: list[str], seed: int, count: int) -> float:
    """The best fitness that a strategy finds with the tokens of that many evaluations on all blocks."""
    context = context_of(overrides)
    config, length = context.config.search, context.config.data.block_size
    limited = replace(config, limit=LimitConfig(tokens=count * config.blocks * length))
    return searched(context, limited, scorer, seed, length)[0]


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    scorer = keeping(context_of([]))
    rows, figures = [], {}
    for count in COUNTS:
        best: dict[str, dict[int, float]] = {name: {} for name in STRATEGIES}
        for seed in SEEDS:  # so that seeds that are done can be compared while the benchmark is running
            for name, (overrides, seeds, counts) in STRATEGIES.items():
                if seed in seeds and count in counts:
                    best[name][seed] = best_of(scorer, overrides, seed, count)
                    print(f"{name}, seed {seed}, {count} evaluations: {best[name][seed]:,.1f}", flush=True)
        for name, of_seed in best.items():
            if of_seed:
                wins = sum(value < best["random"][seed] for seed, value in of_seed.items())
                each = ", ".join(f"{value:,.1f}" for value in of_seed.values())
                rows.append([str(count), name, f"{mean(of_seed.values()):,.1f}", f"{wins} of {len(of_seed)}", each])
                figures |= {f"{name}_seed_{seed}_after_{count}": value for seed, value in of_seed.items()}
    report(
        "Perplexity of the best untrained candidate at equal evaluated tokens, 4 x 256 an evaluation",
        ["evaluations", "strategy", "mean", "beats random", "seeds 0, 1, ..."],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
