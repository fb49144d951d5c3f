"""Evolution with a surrogate and without, on the laboratory's teacher at half its size, against the best of 96 random.

The evaluated candidates after which each reaches the best fitness of 96 random ones, and the best of the first 36 and
of all 96. Losses are kept in outputs/benchmarks, so that an interrupted benchmark resumes.
"""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import geometric_mean, mean

import pipeline
from benchmarks.harness import arguments, report
from benchmarks.searching import Kept, prepared
from pipeline.config import SearchConfig
from pipeline.config import Strategy as Kind
from pipeline.search.evaluator import Evaluator
from pipeline.search.fitness import fitness_of
from pipeline.search.strategies.protocol import Scored
from pipeline.search.strategies.registry import make
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.space import Space

COUNT, FEW, SEEDS = 96, 36, range(5)
SMALL = ["search.population=12", "search.parents=4", "search.crossover.offspring=4", "search.mutation.offspring=4"]
LAB = ["experiment=lab/p0-initialisation", "hydra.mode=RUN", "search=evolution", "bin=lab-half", "precision=fp32"]
METHODS = {"evolution": {}, "with surrogate": {"surrogate": 64}}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    context = prepared(Context(pipeline.compose([*LAB, *SMALL, "search.generations=1000"]), lambda line: None))
    made, config = roots(context), context.config.search
    ordering = order.load(context, made.ordering)
    blocks = context.evenly(made.tokens, "calibration", config.blocks, "search.blocks")
    evaluator = Evaluator(
        context.teacher(made.teacher, context.config.teacher), ordering, blocks, context.precision, config.batch
    )
    kept = Kept(evaluator, Path(context.config.outputs) / "benchmarks" / "surrogate.jsonl")
    space = context.space(ordering)
    random = replace(config, strategy=Kind.random, evaluations=COUNT)
    rows, figures = [], {}
    for seed in SEEDS:
        target = curve(random, space, kept, seed)[-1]
        for name, changes in METHODS.items():
            best = curve(replace(config, **changes), space, kept, seed)
            reached = next((number for number, value in enumerate(best, 1) if value <= target), None)
            rows.append([str(seed), name, f"{target:.1f}", str(reached), f"{best[FEW - 1]:.1f}", f"{best[-1]:.1f}"])
            print(*rows[-1], flush=True)
            figures |= {f"{name}_{seed}_reached": float(reached or COUNT + 1), f"{name}_{seed}_few": best[FEW - 1]}
            figures[f"{name}_{seed}_all"] = best[-1]
    for name in METHODS:
        reached, few, most = ([figures[f"{name}_{seed}_{at}"] for seed in SEEDS] for at in ("reached", "few", "all"))
        rows.append(
            ["mean", name, "", f"{mean(reached):.0f}", f"{geometric_mean(few):.1f}", f"{geometric_mean(most):.1f}"]
        )
    report(
        f"Untrained perplexity of {COUNT} candidates on the laboratory's teacher, half bin",
        ["seed", "strategy", f"best of {COUNT} random", "reached after", f"best of {FEW}", f"best of {COUNT}"],
        rows,
        figures,
        options.json,
    )


def curve(config: SearchConfig, space: Space, kept: Kept, seed: int) -> list[float]:
    """The best fitness after each of the first COUNT evaluations."""
    strategy, found = make(config, space, seed), []
    while len(found) < COUNT and (asked := strategy.ask()):
        scored = [Scored(asked[number], fitness_of(config.fitness, losses)) for number, losses in kept.run(asked)]
        strategy.tell(scored)
        found += [each.fitness for each in scored]
    return list(accumulate(found, min))[:COUNT]


if __name__ == "__main__":
    main()
