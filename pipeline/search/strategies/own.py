"""A search that runs the user's own code: its candidates are held to the space before any is evaluated."""

from collections.abc import Callable

from pipeline.config.own import running
from pipeline.errors import SprigError
from pipeline.search.strategies.protocol import Scored, Strategy
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


class Checked:
    """The strategy that `make` returns. `key` and `path` name what is the user's own: strategy or space.

    Raises:
        SprigError: the user's code fails, or a candidate is not a member of the space.
    """

    def __init__(self, key: str, path: str, space: Space, make: Callable[[], Strategy]):
        self.key, self.path, self.space = key, path, space
        with running(key, path):
            self.strategy = make()

    def ask(self) -> list[SubNetwork]:
        with running(self.key, self.path):
            asked = list(self.strategy.ask())
        for sub in asked:
            if not (isinstance(sub, SubNetwork) and self.space.contains(sub)):
                raise SprigError(
                    f"{self.key}={self.path} yields a candidate that is not a member of the space and the bin: take "
                    "candidates from the space's sample, mutate and crossover alone, and change none of them."
                )
        return asked

    def tell(self, scored: list[Scored]) -> None:
        with running(self.key, self.path):
            self.strategy.tell(scored)
