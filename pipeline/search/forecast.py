"""What a search will spend, as far as its configuration alone says it."""

from dataclasses import dataclass, replace
from itertools import chain, pairwise, repeat

from pipeline.config import LimitConfig, SearchConfig
from pipeline.config import Strategy as Kind
from pipeline.search.strategies.random import BATCH
from pipeline.search.strategies.registry import POPULATIONS


@dataclass
class Forecast:
    """Evaluations (of however many blocks), tokens predicted by them, and candidates that are scored on all blocks."""

    evaluations: int = 0
    tokens: int = 0
    whole: int = 0


def _generations(config: SearchConfig) -> tuple[int, int, int]:
    """Candidates of the first generation and of each later one, and how many later ones there are."""
    if config.strategy == Kind.random:
        return config.evaluations, 0, 0
    if config.strategy not in POPULATIONS:
        return 1, 0, 0
    if config.strategy == Kind.evolution:
        return config.population, config.crossover.offspring + config.mutation.offspring, config.generations
    return config.population, config.offspring, config.generations


def _steps(config: SearchConfig, candidates: int) -> dict[int, int]:
    """How many of a generation's candidates are scored on how many blocks {blocks: candidates}."""
    if config.strategy != Kind.one_plus_lambda:
        return {config.blocks: candidates}
    left = [candidates, *(min(candidates, survivors) for survivors in config.selection.survivors)]
    return dict(zip(config.step_blocks(), left, strict=True))


def scores(config: SearchConfig) -> dict[int, int]:
    """How many candidates the strategy has scored on how many blocks {blocks: candidates}, where neither a limit nor
    the end of the space stops it."""
    first, later, generations = _generations(config)
    later_steps = _steps(config, later)
    return {blocks: count + generations * later_steps[blocks] for blocks, count in _steps(config, first).items()}


def expected(config: SearchConfig, block_size: int, flops_per_token: int | None = None) -> Forecast:
    """What is spent where the end of the space does not stop the search earlier.

    Exact, but that racing spends less on more evaluations, and that limit.flops is looked at only where the
    `flops_per_token` of a typical candidate are given.
    """
    counted, limit = scores(config), config.limit
    # A later step of a multi-step selection scores on the blocks that the steps before did not.
    tokens = sum((last - first) * counted[last] for first, last in pairwise([0, *counted])) * block_size
    asked = Forecast(sum(counted.values()), tokens, counted[config.blocks])
    evaluations = min(asked.evaluations, limit.evaluations or asked.evaluations)
    tokens = min(tokens, limit.tokens or tokens)
    if limit.flops and flops_per_token:
        tokens = min(tokens, limit.flops // flops_per_token)
    if config.racing.enabled:
        return Forecast(evaluations, tokens, min(asked.whole, evaluations))
    if (evaluations, tokens) == (asked.evaluations, asked.tokens):
        return asked

    spent = Forecast()
    first, later, generations = _generations(config)
    for candidates in chain([first], repeat(later, generations)):
        known = 0
        for blocks, count in _steps(config, candidates).items():
            cost, known = (blocks - known) * block_size, blocks
            paid = min(count, evaluations - spent.evaluations, (tokens - spent.tokens) // cost)
            spent.evaluations += paid
            spent.tokens += paid * cost
            spent.whole += paid if blocks == config.blocks else 0
            if paid < count:
                return spent
    return spent


def least(config: SearchConfig) -> tuple[int, int]:
    """The fewest evaluations, and blocks in them, after which a candidate may be scored on all blocks."""
    first, _, _ = _generations(config)
    if config.strategy == Kind.random:
        first = min(first, BATCH)
    *steps, (last, count) = _steps(config, first).items()
    if raced := [blocks for blocks in config.racing_blocks()[:1] if blocks > max(dict(steps), default=0)]:
        steps.append((raced[0], count))
    evaluations = total = known = 0
    for blocks, count in steps:
        evaluations, total, known = evaluations + count, total + count * (blocks - known), blocks
    return evaluations + 1, total + last - known


def unspent(config: SearchConfig, block_size: int, flops_per_token: int | None = None) -> str | None:
    """What to say of a search that ends before its limit, so that it is not compared at the limit's cost.

    `flops_per_token` as in `expected`. None where a limit may end the search, and where there is only one candidate.
    """
    if config.strategy != Kind.random and config.strategy not in POPULATIONS:
        return None
    asked = expected(replace(config, limit=LimitConfig()), block_size)
    known = {"tokens": asked.tokens}
    if not config.racing.enabled:
        known["evaluations"] = asked.evaluations
    if flops_per_token:
        known["flops"] = asked.tokens * flops_per_token
    limits = {name: most for name, most in vars(config.limit).items() if most is not None}
    if not limits or any(known.get(name, most) >= most for name, most in limits.items()):
        return None
    name, most = next(iter(limits.items()))
    unit = "FLOPs" if name == "flops" else name
    amounts = f"{known[name]:.3g} of the {most:.3g}" if name == "flops" else f"{known[name]:,} of the {most:,}"
    key = "search.evaluations" if config.strategy == Kind.random else "search.generations"
    at_most = "at most " if config.racing.enabled else ""
    return f"the strategy asks for {at_most}{amounts} {unit} that search.limit allows: raise {key}"
