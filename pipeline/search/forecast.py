"""What a search will spend, as far as its configuration alone determines it."""

from dataclasses import dataclass

from pipeline.config import SearchConfig
from pipeline.config import Strategy as Kind
from pipeline.config.own import is_own
from pipeline.search.strategies.registry import POPULATIONS


@dataclass
class Forecast:
    """Candidates that are evaluated, and tokens predicted by that."""

    evaluations: int
    tokens: int


def _has_one_candidate(config: SearchConfig) -> bool:
    """Whether a rule or a file names the only candidate."""
    return config.strategy != Kind.random and config.strategy not in POPULATIONS


def candidates(config: SearchConfig) -> int | None:
    """How many candidates the strategy asks for, where neither a limit nor the end of the space stops it. None: only
    the strategy, one of the user's own, knows."""
    if is_own(config.strategy):
        return None
    if _has_one_candidate(config):
        return 1
    if config.strategy not in POPULATIONS:
        return config.evaluations
    is_evolution = config.strategy == Kind.evolution
    generation = config.crossover.offspring + config.mutation.offspring if is_evolution else config.offspring
    return config.population + config.generations * generation


def expected(config: SearchConfig, block_size: int, flops_per_token: int | None = None) -> Forecast | None:
    """What is spent where the end of the space does not stop the search earlier.

    Exact, except that limit.flops only counts where the `flops_per_token` of a typical candidate are given. Of a
    strategy of the user's own, the most that the limits allow; None where there are none.
    """
    limit, tokens, asked = config.limit, config.blocks * block_size, candidates(config)
    most = [] if asked is None else [asked]
    if limit.evaluations:
        most.append(limit.evaluations)
    if limit.tokens:
        most.append(limit.tokens // tokens)
    if limit.flops and flops_per_token:
        most.append(limit.flops // (flops_per_token * tokens))
    return Forecast(min(most), min(most) * tokens) if most else None


def unspent(config: SearchConfig, block_size: int, flops_per_token: int | None = None) -> str | None:
    """What to report of a search that ends before its limit, so that it is not compared at the limit's cost.

    `flops_per_token` as in `expected`. None where a limit may end the search, where there is only one candidate, and
    for a strategy of the user's own, which may ask for any number.
    """
    asked = candidates(config)
    if asked is None or _has_one_candidate(config):
        return None
    known = {"evaluations": asked, "tokens": asked * config.blocks * block_size}
    if flops_per_token:
        known["flops"] = known["tokens"] * flops_per_token
    limits = {name: most for name, most in vars(config.limit).items() if most is not None}
    if not limits or any(known.get(name, most) >= most for name, most in limits.items()):
        return None
    name, most = next(iter(limits.items()))
    unit = "FLOPs" if name == "flops" else name
    amounts = f"{known[name]:.3g} of the {most:.3g}" if name == "flops" else f"{known[name]:,} of the {most:,}"
    key = "search.evaluations" if config.strategy not in POPULATIONS else "search.generations"
    return f"the strategy asks for {amounts} {unit} that search.limit allows: raise {key}"
