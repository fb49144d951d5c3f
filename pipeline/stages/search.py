"""Stage search: the sub-network of the bin with the lowest perplexity, and the random baseline beside it."""

import json
import time
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import Recipe, write_json
from pipeline.config import SearchConfig
from pipeline.config import Strategy as Kind
from pipeline.errors import SprigError
from pipeline.search import journal as journals
from pipeline.search.evaluator import Evaluator
from pipeline.search.loop import search
from pipeline.search.strategies import Evolution, Given, RandomSearch, Strategy
from pipeline.stages import order, prepare
from pipeline.stages.context import Context, Step, part
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork, check

STAGE, VERSION = "search", 1
JOURNAL, WINNER, COSTS, TIMES = "journal.jsonl", "subnetwork.json", "costs.json", "seconds.txt"
# Which keys determine each strategy's walk; the others are out of its fingerprint.
WALK = {
    Kind.evolution: ("population", "parents", "crossover", "mutation", "generations"),
    Kind.random: ("evaluations",),
    Kind.given: (),
}
RANDOM_ASK = 16  # candidates the random strategy asks for at a time


def evaluations(config: SearchConfig) -> int:
    """How many candidates the strategy asks for, where the space does not run out of new ones."""
    if config.strategy == Kind.evolution:
        offspring = config.crossover.offspring + config.mutation.offspring
        return config.population + config.generations * offspring
    return config.evaluations if config.strategy == Kind.random else 1


def read_given(context: Context) -> SubNetwork:
    """The sub-network of search.path.

    Raises:
        SprigError: it is not there, no sub-network, not one of this teacher, or outside the bin.
    """
    path = Path(context.config.search.path)
    try:
        given = SubNetwork.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SprigError(f"search.path={path} cannot be read as a sub-network: {error}.") from None
    check(given, context.architecture)
    ordering = order.fingerprint(context)
    if given.ordering != ordering:
        raise SprigError(
            f"The sub-network of {path} was found under ordering {given.ordering}, but this run's is {ordering}: give "
            "this run the teacher, data and ordering of the run that found it."
        )
    size = parameters(context.architecture, given, context.bin.count)
    if not context.bin.contains(size):
        raise SprigError(
            f"The sub-network of {path} has {size:,} parameters, outside the bin {context.bin.low:,}.."
            f"{context.bin.high:,}: choose another bin=, or another file."
        )
    return given


def recipe(context: Context, config: SearchConfig) -> Recipe:
    teacher = prepare.teacher_step(context, context.config.teacher).recipe
    tokens = prepare.tokens_step(context).recipe
    inputs = {
        "teacher": teacher.fingerprint,
        "tokens": tokens.fingerprint,
        "ordering": order.fingerprint(context),
    }
    own = {
        key: value
        for key, value in part(config).items()
        if key in ("strategy", "blocks", "batch", *WALK[config.strategy])
    }
    own |= {"precision": context.precision}
    if config.strategy == Kind.given:
        own |= {"subnetwork": read_given(context).to_dict()}
    else:
        own |= {"space": part(context.config.space), "bin": edges(context), "seed": context.config.seed}
    return Recipe(STAGE, VERSION, own, inputs)


def step(context: Context) -> Step:
    return _step(context, context.config.search, "search")


def baseline_step(context: Context) -> Step | None:
    """Best of n random, n being the search's own evaluations; None where the preset does not ask for it."""
    config = context.config.search
    if not config.random_baseline:
        return None
    return _step(
        context, replace(config, strategy=Kind.random, path=None, evaluations=evaluations(config)), "random_search"
    )


def edges(context: Context) -> dict:
    """What of the bin determines a result: not how it was written down."""
    return {"low": context.bin.low, "high": context.bin.high, "count": context.bin.count}


def _strategy(context: Context, config: SearchConfig, space: Space | None) -> Strategy:
    if config.strategy == Kind.given:
        return Given(read_given(context))
    if config.strategy == Kind.random:
        return RandomSearch(space, config.evaluations, RANDOM_ASK, context.config.seed)
    return Evolution(space, config, context.config.seed)


def _step(context: Context, config: SearchConfig, role: str) -> Step:
    own = recipe(context, config)

    def make(folder: Path) -> None:
        architecture, length = context.architecture, context.config.data.block_size
        teacher = prepare.teacher_step(context, context.config.teacher).recipe
        tokens = prepare.tokens_step(context).recipe
        ordering = order.load(context)
        blocks = context.evenly(tokens, "calibration", config.blocks, "search.blocks")
        evaluator = Evaluator(
            context.teacher(teacher, context.config.teacher), ordering, blocks, context.precision, config.batch
        )
        space = None if config.strategy == Kind.given else context.space(ordering)
        journal = journals.Journal(folder / JOURNAL, own.fingerprint)
        best = search(
            _strategy(context, config, space),
            _Timed(evaluator, folder / TIMES),
            lambda sub: parameters(architecture, sub, context.bin.count),
            journal,
            evaluations(config),
            lambda line: context.log({"role": role} | line),
        )
        journal.close()
        write_json(folder / WINNER, best.subnetwork.to_dict())
        evaluated = journals.read(folder / JOURNAL)
        flops = sum(flops_per_token(architecture, line["subnetwork"], length=length) for line in evaluated)
        write_json(
            folder / COSTS,
            {
                "strategy": config.strategy,
                "evaluated": len(evaluated),
                "tokens": len(evaluated) * evaluator.tokens,
                "flops": flops * evaluator.tokens,
                "best_fitness": best.fitness,
                "seconds": sum(map(float, (folder / TIMES).read_text().split())),
            },
        )

    return Step(STAGE, role, own, make)


class _Timed:
    """Notes the seconds of every evaluation in a file of its own: the journal must be the same bytes each time."""

    def __init__(self, evaluate: Evaluator, path: Path):
        self.evaluate, self.path = evaluate, path

    def __call__(self, subnetwork: SubNetwork) -> float:
        started = time.perf_counter()
        fitness = self.evaluate(subnetwork)
        with self.path.open("a") as file:
            file.write(f"{time.perf_counter() - started:.4f}\n")
        return fitness


def winner(context: Context) -> SubNetwork:
    """The sub-network that this run's search found."""
    return SubNetwork.from_dict(json.loads((context.made(step(context).recipe) / WINNER).read_text()))
