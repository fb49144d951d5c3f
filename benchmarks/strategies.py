"""Search strategies on the embedded teacher at the quickstart's bin and space, at equal evaluated tokens.

Every evaluation is kept in outputs/benchmarks and shared by all strategies and seeds, so that a killed benchmark goes
on where it was, and one that was run prints its table at once.
"""

from itertools import accumulate
from pathlib import Path
from statistics import mean

import pipeline
from benchmarks.harness import arguments, report
from pipeline.artifacts import digest
from pipeline.config import Config
from pipeline.search.budget import Budget
from pipeline.search.evaluator import Evaluator
from pipeline.search.journal import Journal
from pipeline.search.strategies.protocol import Scored
from pipeline.search.strategies.registry import make
from pipeline.stages import order, prepare
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token, parameters

COUNTS = (36, 96)  # evaluations on all blocks; what is scored on fewer counts by its tokens. 36 are the quickstart's
SEEDS = range(5)
QUICKSTART = ["experiment=quickstart", "precision=fp32", "search.generations=1000"]
# Overrides of the quickstart, and the seeds that a strategy is run with.
STRATEGIES = {
    "uniform": (["search.strategy=uniform"], [0]),
    "importance": (["search.strategy=importance"], [0]),
    "first_layers": (["search.strategy=first_layers", "space.layers=prefix"], [0]),
    "random": (["search.strategy=random", "search.evaluations=1000"], SEEDS),
    "evolution": ([], SEEDS),
}


def context_of(overrides: list[str]) -> Context:
    """Teacher, text and ordering of a configuration, made where they are not there yet."""
    context = Context(pipeline.compose([*QUICKSTART, *overrides]), lambda line: None)
    for step in (
        prepare.teacher_step(context, context.config.teacher),
        prepare.tokens_step(context),
        order.step(context),
    ):
        context.store.obtain(step.recipe, step.make)
    return context


def evaluations(context: Context) -> tuple[Evaluator, Journal]:
    """How candidates of this teacher, text and ordering are scored, and all that was ever scored so."""
    config, tokens = context.config, prepare.tokens_step(context).recipe
    teacher = prepare.teacher_step(context, config.teacher).recipe
    blocks = context.evenly(tokens, "calibration", config.search.blocks, "search.blocks")
    evaluator = Evaluator(
        context.teacher(teacher, config.teacher), order.load(context), blocks, context.precision, config.search.batch
    )
    name = digest([tokens.fingerprint, order.fingerprint(context), config.search.blocks, context.precision])
    path = Path(config.outputs) / "benchmarks" / f"evaluations-{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return evaluator, Journal(path, name)


def trajectory(config: Config, context: Context, evaluator: Evaluator, known: Journal, most: int) -> list[float]:
    """The best fitness on all blocks after 1, 2, ... `most` times the tokens of an evaluation on all blocks."""
    length, whole = config.data.block_size, config.search.blocks
    config.search.limit.tokens = most * whole * length
    space = context.space(order.load(context))
    strategy = make(config.search, space, config.seed)
    budget = Budget(config.search.limit, length, lambda sub: flops_per_token(space.architecture, sub, length=length))
    found: dict[int, float] = {}  # by the evaluations that were paid for, those on few blocks rounded up
    allowed = True
    while allowed and (asked := strategy.ask()).candidates:
        scored = []
        for candidate in asked.candidates:
            allowed = budget.take(candidate, asked.blocks)
            if not allowed:
                break
            fitness = known.known.get((candidate.key, asked.blocks))
            each = Scored(candidate, evaluator(candidate, asked.blocks) if fitness is None else fitness)
            if fitness is None:
                known.add(each, asked.blocks, parameters=parameters(space.architecture, candidate))
            scored.append(each)
            if asked.blocks == whole:
                paid = -(-budget.spent.tokens // (whole * length))
                found[paid] = min(found.get(paid, each.fitness), each.fitness)
        strategy.tell(scored)
    return list(accumulate((found.get(paid, float("inf")) for paid in range(1, most + 1)), min))


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    evaluator, known = evaluations(context_of([]))
    rows, figures = [], {}
    for most in COUNTS:
        best: dict[str, dict[int, float]] = {name: {} for name in STRATEGIES}
        for seed in SEEDS:  # so that seeds that are done can be compared while the benchmark is running
            for name, (overrides, seeds) in STRATEGIES.items():
                if seed in seeds:
                    context = context_of([*overrides, f"seed={seed}"])
                    best[name][seed] = trajectory(context.config, context, evaluator, known, most)[-1]
                    print(f"{name}, seed {seed}, {most} evaluations: {best[name][seed]:,.1f}", flush=True)
        for name, of_seed in best.items():
            wins = sum(value < best["random"][seed] for seed, value in of_seed.items())
            each = ", ".join(f"{value:,.1f}" for value in of_seed.values())
            rows.append([str(most), name, f"{mean(of_seed.values()):,.1f}", f"{wins} of {len(of_seed)}", each])
            figures |= {f"{name}_seed_{seed}_after_{most}": value for seed, value in of_seed.items()}
    known.close()
    report(
        "Perplexity of the best untrained candidate at equal evaluated tokens, 4 x 256 an evaluation",
        ["evaluations", "strategy", "mean", "beats random", "seeds 0, 1, ..."],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
