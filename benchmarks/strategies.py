"""Search strategies on the embedded teacher at the quickstart's bin and space, at equal evaluated tokens.

Every evaluation is kept in outputs/benchmarks and shared by all strategies and seeds, so that a killed benchmark goes
on where it was, and one that was run prints its table at once.
"""

import json
from pathlib import Path
from statistics import mean

import pipeline
from benchmarks.harness import arguments, report
from pipeline.artifacts import digest
from pipeline.config import Fitness
from pipeline.search.evaluator import Evaluator, Task
from pipeline.search.fitness import fitness_of
from pipeline.search.strategies.protocol import Scored
from pipeline.search.strategies.registry import make
from pipeline.stages import order, prepare, scoring
from pipeline.stages.context import Context
from pipeline.subnetwork.value import SubNetwork

COUNTS = (36, 96)  # evaluations; 36 are the quickstart's
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


class Evaluations:
    """The fitness of candidates of one teacher, text and ordering, and all that was ever evaluated so, on disk."""

    def __init__(self, context: Context):
        config, tokens = context.config, prepare.tokens_step(context).recipe
        self.evaluator: Evaluator = scoring.scorer(context, config.search)
        self.blocks = config.search.blocks
        name = digest([tokens.fingerprint, order.fingerprint(context), self.blocks, context.precision])
        self.path = Path(config.outputs) / "benchmarks" / f"evaluations-{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.known = {line["key"]: line["fitness"] for line in lines if "key" in line}

    def __call__(self, sub: SubNetwork) -> float:
        if sub.key not in self.known:
            ((_, losses),) = self.evaluator.run([Task(sub, 0, self.blocks)])
            self.known[sub.key] = fitness_of(Fitness.perplexity, losses)
            with self.path.open("a") as file:
                file.write(json.dumps({"key": sub.key, "fitness": self.known[sub.key]}) + "\n")
        return self.known[sub.key]


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


def best_of(context: Context, evaluate: Evaluations, count: int) -> float:
    """The best fitness that a strategy finds in so many evaluations on all blocks, the last generation cut short."""
    strategy = make(context.config.search, context.space(order.load(context)), context.config.seed)
    scored: list[Scored] = []
    while len(scored) < count and (asked := strategy.ask().candidates):
        told = [Scored(sub, evaluate(sub)) for sub in asked[: count - len(scored)]]
        strategy.tell(told)
        scored += told
    return min(each.fitness for each in scored)


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    evaluate = Evaluations(context_of([]))
    rows, figures = [], {}
    for count in COUNTS:
        best: dict[str, dict[int, float]] = {name: {} for name in STRATEGIES}
        for seed in SEEDS:  # so that seeds that are done can be compared while the benchmark is running
            for name, (overrides, seeds) in STRATEGIES.items():
                if seed in seeds:
                    best[name][seed] = best_of(context_of([*overrides, f"seed={seed}"]), evaluate, count)
                    print(f"{name}, seed {seed}, {count} evaluations: {best[name][seed]:,.1f}", flush=True)
        for name, of_seed in best.items():
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
