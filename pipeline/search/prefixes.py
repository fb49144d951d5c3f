"""Hidden states behind the first layers of candidates, kept for others that begin with the same layers."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import pairwise

from torch import Tensor

from pipeline.subnetwork.value import SubNetwork


def prefixes(sub: SubNetwork, stock: bool) -> list[Hashable]:
    """What determines the hidden states behind each of 0, 1, ... n_layer layers on given tokens.

    `stock` is whether the candidate is a stock model, whose rope tables are computed in another way: equal in value,
    not to the bit."""
    root = (stock, sub.n_embd, sub.index_seed, sub.head_pairs, sub.attention_scale, sub.ordering)
    return [(root, sub.layers[:depth], sub.genes[:depth]) for depth in range(sub.n_layer + 1)]


def arrange(subs: list[SubNetwork]) -> list[int]:
    """An order in which each candidate shares no longer prefix with any earlier one than with the one just before."""

    def path(number: int) -> tuple:
        sub = subs[number]
        seeds = (-1 if sub.index_seed is None else sub.index_seed, sub.n_embd)
        genes = (
            tuple(-1 if size is None else size for size in (layer, *vars(gene).values()))
            for layer, gene in zip(sub.layers, sub.genes, strict=True)
        )
        return (seeds, *genes)

    return sorted(range(len(subs)), key=path)


class Prefixes:
    """A store of hidden states (B, T, E) by (prefix, chunk of blocks), of at most `limit` bytes.

    Beyond that the least recently used ones go, but those where candidates of the present batch part last: they are
    sure to be used again. What does not fit beside them is not kept.
    """

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._states: OrderedDict[tuple[Hashable, int], Tensor] = OrderedDict()
        self._partings: set[Hashable] = set()
        self._held: set[tuple[Hashable, int]] = set()

    def expect(self, paths: Iterable[list[Hashable]]) -> None:
        """The prefixes of the candidates that come next, in their order."""
        self._partings = set()
        for path, later in pairwise(paths):
            shared = [prefix for prefix, other in zip(path, later, strict=False) if prefix == other]
            self._partings.update(shared[-1:])

    def hold(self, path: list[Hashable], chunks: list[int]) -> dict[int, int]:
        """For each chunk, how many layers the longest prefix has whose hidden states are here; 0 where there is none.
        These stay until the next call."""
        depths = {}
        for chunk in chunks:
            here = [depth for depth, prefix in enumerate(path) if (prefix, chunk) in self._states]
            for depth in here:
                self._states.move_to_end((path[depth], chunk))
            depths[chunk] = max(here, default=0)
        self._held = {(path[depth], chunk) for chunk, depth in depths.items()}
        return depths

    def get(self, prefix: Hashable, chunk: int) -> Tensor:
        return self._states[prefix, chunk]

    def add(self, prefix: Hashable, chunk: int, state: Tensor) -> None:
        key = prefix, chunk
        if key in self._states or state.nbytes > self.limit:
            return
        while self.bytes + state.nbytes > self.limit:
            oldest = next((old for old in self._states if old[0] not in self._partings and old not in self._held), None)
            if oldest is None:
                return
            self.bytes -= self._states.pop(oldest).nbytes
        self._states[key] = state
        self.bytes += state.nbytes
