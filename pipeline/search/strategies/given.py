"""One sub-network, from a file or from a rule: scored, not searched."""

from pipeline.search.strategies.protocol import Scored
from pipeline.subnetwork.value import SubNetwork


class Given:
    def __init__(self, subnetwork: SubNetwork):
        self.pending = [subnetwork]

    def ask(self) -> list[SubNetwork]:
        return self.pending

    def tell(self, scored: list[Scored]) -> None:
        self.pending = []
