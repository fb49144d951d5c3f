"""Evolution with a surrogate and without, on the laboratory's teacher at half its size, against the best of 96 random.

The evaluated candidates after which each reaches the best fitness of 96 random ones, and the best of the first 36 and
of all 96: in the space of all dimensions, and in one where the allocation, which needs the width as it is, can be the
first candidate. Losses are kept in outputs/benchmarks, so that an interrupted benchmark resumes.
"""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import pipeline
from benchmarks.harness import arguments, report
from benchmarks.searching import Kept, prepared
from pipeline.config import SearchConfig, Start
from pipeline.config import Strategy as Kind
from pipeline.search.evaluator import Evaluator
from pipeline.search.fitness import fitness_of
from pipeline.search.strategies.protocol import Scored, Strategy
from pipeline.search.strategies.registry import make
from pipeline.stages import order, reconstruct
from pipeline.stages.context import Context
from pipeline.stages.roots import roots

COUNT, FEW, SEEDS = 96, 36, range(5, 10)  # on which no option was chosen
SMALL = ["search.population=12", "search.parents=4", "search.crossover.offspring=4", "search.mutation.offspring=4"]
LAB = ["experiment=lab/p0-initialisation", "hydra.mode=RUN", "search=evolution", "bin=lab-half", "precision=fp32"]
SURROGATE: dict[str, Any] = {"surrogate": 64}
METHODS: dict[str, dict[str, Any]] = {"evolution": {}, "with surrogate": SURROGATE}
ALLOCATION: dict[str, Any] = {"start": [Start.allocation]}
SPACES = {
    "all": ([], METHODS),
    "held width": (
        ["space.layers=subset", "space.hold=[n_embd,head_size]", "search.start=[allocation]"],
        {**METHODS, "from the allocation": ALLOCATION, "from the allocation, with surrogate": ALLOCATION | SURROGATE},
    ),
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for label, (overrides, methods) in SPACES.items():
        compare(label, overrides, methods, rows, figures)
    report(
        f"Untrained perplexity of {COUNT} candidates on the laboratory's teacher, half bin",
        ["space", "seed", "strategy", f"best of {COUNT} random", "reached after", f"best of {FEW}", f"best of {COUNT}"],
        rows,
        figures,
        options.json,
    )


def compare(
    label: str,
    overrides: list[str],
    methods: dict[str, dict[str, Any]],
    rows: list[list[str]],
    figures: dict[str, float],
) -> None:
    """Add the rows and figures of one space."""
    context = prepared(
        Context(pipeline.compose([*LAB, *SMALL, "search.generations=1000", *overrides]), lambda line: None)
    )
    made, config = roots(context), replace(context.config.search, start=[])
    ordering = order.load(context, made.ordering)
    blocks = context.evenly(made.tokens, "calibration", config.blocks, "search.blocks")
    evaluator = Evaluator(
        context.teacher(made.teacher, context.config.teacher), ordering, blocks, context.precision, config.batch
    )
    kept = Kept(evaluator, Path(context.config.outputs) / "benchmarks" / "surrogate.jsonl")
    space = context.space(ordering)
    errors = reconstruct.load(context, made.errors) if made.errors is not None else None
    random = replace(config, strategy=Kind.random, evaluations=COUNT)
    for seed in SEEDS:
        target = curve(make(random, space, seed), config, kept)[-1]
        for name, changes in methods.items():
            best = curve(make(replace(config, **changes), space, seed, errors), config, kept)
            reached = next((number for number, value in enumerate(best, 1) if value <= target), COUNT + 1)
            rows.append(
                [label, str(seed), name, f"{target:.1f}", str(reached), f"{best[FEW - 1]:.1f}", f"{best[-1]:.1f}"]
            )
            print(*rows[-1], flush=True)
            key = f"{label}_{name}_{seed}"
            figures |= {f"{key}_reached": float(reached), f"{key}_few": best[FEW - 1], f"{key}_all": best[-1]}
    for name in methods:
        of_seeds = [[figures[f"{label}_{name}_{seed}_{at}"] for seed in SEEDS] for at in ("reached", "few", "all")]
        reached_after, few, most = mean(of_seeds[0]), geometric_mean(of_seeds[1]), geometric_mean(of_seeds[2])
        rows.append([label, "mean", name, "", f"{reached_after:.0f}", f"{few:.1f}", f"{most:.1f}"])


def curve(strategy: Strategy, config: SearchConfig, kept: Kept) -> list[float]:
    """The best fitness after each of the first COUNT evaluations."""
    found: list[float] = []
    while len(found) < COUNT and (asked := strategy.ask()):
        scored = [Scored(asked[number], fitness_of(config.fitness, losses)) for number, losses in kept.run(asked)]
        strategy.tell(scored)
        found += [each.fitness for each in scored]
    return list(accumulate(found, min))[:COUNT]


if __name__ == "__main__":
    main()
