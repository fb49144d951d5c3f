"""One sub-network, from a file or from a rule: scored, not searched."""

from pipeline.config import SearchConfig
from pipeline.search.strategies.protocol import Ask, Scored
from pipeline.subnetwork.value import SubNetwork


class Given:
    def __init__(self, subnetwork: SubNetwork, config: SearchConfig):
        self.pending, self.blocks = [subnetwork], config.blocks

    def ask(self) -> Ask:
        return Ask(self.pending, self.blocks)

    def tell(self, scored: list[Scored]) -> None:
        self.pending = []
