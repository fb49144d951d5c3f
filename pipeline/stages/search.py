"""Stage search: the fittest untrained sub-network of the bin, and its random baseline."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline import outside
from pipeline.artifacts import Recipe, write_json
from pipeline.config import LimitConfig, OrderingKind, SearchConfig, material, walk
from pipeline.config import Strategy as Kind
from pipeline.config.own import function, is_own
from pipeline.errors import SprigError
from pipeline.ranks import rank
from pipeline.search import journal as journals
from pipeline.search.budget import budget_of, teacher_flops
from pipeline.search.forecast import candidates, expected, unspent
from pipeline.search.loop import Scorer, Search
from pipeline.search.strategies.given import Given
from pipeline.search.strategies.protocol import Strategy
from pipeline.search.strategies.registry import make as make_strategy
from pipeline.stages import order, reconstruct, scoring
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.about import FoundFitness, about
from pipeline.subnetwork.allocation import Errors
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.exported import counted
from pipeline.subnetwork.limits import check_limits, make_limits
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import ABOUT, SubNetwork, check

log = logging.getLogger("sprig")

STAGE, VERSION = "search", 3
LIMITS = 2  # as VERSION, of searches with limits only: how members are drawn there
SCALED = 2  # as VERSION, of uniform and importance only: how their shape is fitted where none lands in the bin
JOURNAL, WINNER, COSTS, TIMES = "journal.jsonl", "subnetwork.json", "costs.json", "seconds.txt"


def check_strategy(context: Context, space: Space) -> None:
    """Whether the space has what the strategy starts from.

    Raises:
        SprigError: it does not, and the cure.
    """
    config = context.config.search
    if Kind.importance in (config.strategy, *config.start) and context.config.ordering.kind == OrderingKind.none:
        raise SprigError(
            "search importance needs a ranking, but ordering.kind=none has none: use "
            "ordering=importance, or another search.strategy or search.start."
        )
    make_strategy(config, space, context.config.seed, Errors.none(context.architecture))
    if is_own(config.fitness):
        function("search.fitness", config.fitness)


def check_limit(context: Context, flops: int) -> None:
    """Whether the limit pays for one candidate, which takes at least this many forward FLOPs per token.

    Raises:
        SprigError: it does not, and the cure.
    """
    config, length = context.config.search, context.config.data.block_size
    once, head = teacher_flops(config, context.architecture, length)
    once += errors_flops(context, config)
    tokens = config.blocks * length
    for name, amount in {"tokens": tokens, "flops": once + tokens * (flops + head)}.items():
        most = getattr(config.limit, name)
        if most is not None and most < amount:
            raise SprigError(
                f"search.limit.{name}={most:,} ends the search before a candidate is evaluated on all {config.blocks} "
                f"blocks of {length} tokens, which takes at least {amount:,} {'FLOPs' if name == 'flops' else name}: "
                "raise it, or lower search.blocks."
            )


def read_given(context: Context, roots: Roots) -> SubNetwork:
    """The sub-network of search.path.

    Raises:
        SprigError: it is not there, no sub-network, not one of this teacher, or outside the bin or the limits.
    """
    assert context.config.search.path is not None  # the schema asks `given` for it
    path = Path(context.config.search.path)
    try:
        content = context.facts.get(f"sub-network {path}", lambda: outside.read_json(path))
    except ValueError as error:
        raise SprigError(f"search.path={path} {error}: name a subnetwork.json.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SprigError(f"search.path={path} cannot be read ({reason}): name a subnetwork.json.") from None
    try:
        given = SubNetwork.from_dict(content)
        check(given, context.architecture)
    except SprigError as error:
        raise SprigError(
            f"search.path={path} holds no sub-network of teacher {context.config.teacher.name} "
            f"({str(error).rstrip('.')}): name the subnetwork.json of a run that cuts this teacher."
        ) from None
    if given.ordering != (ordering := roots.ordering_fingerprint):
        raise SprigError(
            f"The sub-network of {path} was found under ordering {given.ordering}, but this run's is {ordering}: give "
            "this run the teacher, data and ordering of the run that found it."
        )
    size = counted(context.architecture, given, context.bin.count)
    if not context.bin.contains(size):
        raise SprigError(
            f"The sub-network of {path} has {size:,} parameters, outside the bin {context.bin.low:,}.."
            f"{context.bin.high:,}: choose another bin=, or another file."
        )
    check_limits(
        make_limits(context.architecture, context.config.space, **context.counted_at),
        given,
        f"The sub-network of {path}",
    )
    return given


def recipe(context: Context, config: SearchConfig, roots: Roots, model: Recipe | None = None) -> Recipe:
    """`model` is a search whose evaluated tokens this one spends, instead of a number of its own."""
    inputs, own = roots.inputs, walk(config)
    if config.reads_errors and roots.errors is not None:
        inputs["errors"] = roots.errors.fingerprint
    if model is not None:
        inputs["search"] = model.fingerprint
        del own["evaluations"]
    if "limit" in own:  # more than one candidate
        own["seed"] = context.config.seed
    scored = ("strategy", "fitness", "blocks", "batch")
    own |= {key: value for key, value in material(config).items() if key in scored}
    own["precision"] = context.precision
    own |= context.own_code(**{"search.strategy": config.strategy, "search.fitness": config.fitness})
    if config.strategy == Kind.given:
        own |= {"subnetwork": read_given(context, roots).to_dict()}
    else:
        own |= {"space": space_part(context), "bin": edges(context)}
    if {Kind.uniform, Kind.importance} & {config.strategy, *config.start}:
        own["scaled"] = SCALED
    return Recipe(STAGE, VERSION, own, inputs)


def baseline(config: SearchConfig) -> SearchConfig:
    """Best of n random on as many tokens as a search evaluates."""
    return replace(
        config,
        strategy=Kind.random,
        path=None,
        start=[],
        limit=LimitConfig(),
        evaluations=candidates(config) or config.evaluations,
    )


def is_counted(config: SearchConfig) -> bool:
    """Whether the configuration alone says how many tokens a search evaluates; a limited one, or one of the user's own
    strategies, is counted once it is done."""
    return config.limit == LimitConfig() and not is_own(config.strategy)


def edges(context: Context) -> dict:
    """What of the bin determines a result: not how it was written down."""
    return {"low": context.bin.low, "high": context.bin.high, "count": context.bin.count}


def space_part(context: Context) -> dict:
    """What of the space determines a result; what limits are counted at only where there are some."""
    space = context.config.space
    is_limited = space.max_flops_per_token or space.max_kv_bytes_per_token
    own = material(space, "vocabulary")  # which is the teacher's, an input
    own |= context.own_code(**{"space.type": space.type})
    return own | ({"limits": {"version": LIMITS} | context.counted_at} if is_limited else {})


def make(
    context: Context, recipe: Recipe, folder: Path, role: str, config: SearchConfig, roots: Roots, model: Recipe | None
) -> None:
    """All ranks make it together; `model` as in `recipe`."""
    if rank() != 0:
        scoring.serve(context, config, roots)
        return
    length, scored = context.config.data.block_size, config
    if model is not None:
        config = _spending(context, config, model)
    if warning := unspent(config, length):
        log.warning("%s: %s.", role, warning)
    budget = budget_of(config, context.architecture, length, errors_flops(context, config))
    journal = journals.Journal(folder / JOURNAL, recipe.fingerprint)
    with scoring.scorer(context, scored, roots) as scorer:
        best = Search(
            config,
            _strategy(context, config, roots),
            _Timed(scorer, folder / TIMES),
            journal,
            budget,
            parameters=lambda sub: parameters(context.architecture, sub, context.bin.count),
            expected=expected(config, length),
            log=lambda line: context.log({"role": role} | line),
        ).run()
    journal.close()
    write_winner(context, folder, best.subnetwork, {"measure": str(config.fitness), "value": best.fitness})
    costs = {
        "strategy": config.strategy,
        "fitness": config.fitness,
        "evaluated": budget.spent.evaluations,
        "tokens": budget.spent.tokens,
        "flops": budget.spent.flops,
        "best_fitness": best.fitness,
        "seconds": _seconds(folder / TIMES),
    }
    write_json(folder / COSTS, costs)


def write_winner(context: Context, folder: Path, sub: SubNetwork, fitness: FoundFitness) -> None:
    """subnetwork.json of a search or a rerank."""
    noted = about(context.config.teacher.name, context.architecture, sub, fitness, context.uncut_vocabulary)
    write_json(folder / WINNER, sub.to_dict() | {ABOUT: noted})


def _strategy(context: Context, config: SearchConfig, roots: Roots) -> Strategy:
    if config.strategy == Kind.given:
        return Given(read_given(context, roots))
    errors = reconstruct.load(context, roots.errors) if roots.errors is not None and config.reads_errors else None
    return make_strategy(config, context.space(order.load(context, roots.ordering)), context.config.seed, errors)


def _spending(context: Context, config: SearchConfig, model: Recipe) -> SearchConfig:
    """As many random candidates as the tokens of a finished search pay for."""
    tokens = json.loads((context.made(model) / COSTS).read_text())["tokens"]
    return replace(config, evaluations=max(tokens // (config.blocks * context.config.data.block_size), 1))


def errors_flops(context: Context, config: SearchConfig) -> int:
    """Of measuring the errors that a search reads, which count as the search's."""
    return reconstruct.flops(context) if config.reads_errors else 0


def _seconds(times: Path) -> float:
    """Of all evaluations that are noted; what is damaged in the notes does not count."""
    total = 0.0
    for word in times.read_text(errors="replace").split() if times.exists() else ():
        with suppress(ValueError):
            seconds = float(word)
            total += seconds if math.isfinite(seconds) else 0.0
    return total


class _Timed:
    """Notes the seconds of every evaluation in a file of its own: the journal must be the same bytes each time."""

    def __init__(self, scorer: Scorer, path: Path):
        self.scorer, self.path = scorer, path

    def run(self, candidates: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        started = time.perf_counter()
        for result in self.scorer.run(candidates):
            now = time.perf_counter()
            with self.path.open("a") as file:
                file.write(f"\n{now - started:.4f}")  # in this order a number that is cut short spoils no other
            yield result
            started = time.perf_counter()
