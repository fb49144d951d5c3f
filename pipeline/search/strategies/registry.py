"""Every strategy by its name in the configuration, or by the import path of a class of the user's."""

from collections.abc import Callable

from pipeline.config import SearchConfig
from pipeline.config import Strategy as Kind
from pipeline.config.own import imported, is_own
from pipeline.errors import SprigError
from pipeline.search.strategies.climb import local, one_plus_lambda
from pipeline.search.strategies.evolution import Evolution
from pipeline.search.strategies.first_layers import first_layers
from pipeline.search.strategies.given import Given
from pipeline.search.strategies.importance import importance
from pipeline.search.strategies.own import Checked
from pipeline.search.strategies.protocol import Strategy
from pipeline.search.strategies.random import RandomSearch
from pipeline.search.strategies.uniform import uniform
from pipeline.subnetwork.allocation import Errors, allocate
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork

RULES = {Kind.uniform: uniform, Kind.first_layers: first_layers, Kind.importance: importance}
POPULATIONS: dict[Kind, Callable[[Space, SearchConfig, int, list[SubNetwork]], Strategy]] = {
    Kind.evolution: Evolution,
    Kind.one_plus_lambda: one_plus_lambda,
    Kind.local: local,
}


def make(config: SearchConfig, space: Space, seed: int, errors: Errors | None = None) -> Strategy:
    """The configured strategy, of all but `given`; `allocation` chooses by the `errors`.

    Raises:
        SprigError: the space has no member that a one-candidate strategy, or a start, would choose; or the user's class
            cannot be imported.
    """
    if is_own(config.strategy):
        own: type[Strategy] = imported("search.strategy", config.strategy)
        return Checked("search.strategy", config.strategy, space, lambda: own(space, config, seed))
    if space.config.type is not None:
        return Checked("space.type", space.config.type, space, lambda: _make(config, space, seed, errors))
    return _make(config, space, seed, errors)


def _make(config: SearchConfig, space: Space, seed: int, errors: Errors | None) -> Strategy:
    if config.strategy in (*RULES, Kind.allocation):
        return Given(_chosen(config.strategy, space, errors))
    if config.strategy == Kind.random:
        return RandomSearch(space, config, seed)
    return POPULATIONS[Kind(config.strategy)](space, config, seed, starts(config, space, errors))


def starts(config: SearchConfig, space: Space, errors: Errors | None = None) -> list[SubNetwork]:
    """The members that a first generation begins with. Raises SprigError as `make`."""
    return [_chosen(start, space, errors) for start in config.start]


def _chosen(rule: str, space: Space, errors: Errors | None) -> SubNetwork:
    if rule != Kind.allocation:
        return RULES[Kind(rule)](space)
    if errors is None:
        raise SprigError(
            "search allocation needs a teacher's reconstruction errors: run it as a stage, search=allocation."
        )
    return allocate(space, errors)
