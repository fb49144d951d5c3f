"""Selects the teacher's entries that a sub-network keeps, from its sizes."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.value import LayerGenes, SubNetwork

# Purposes of the generators that a sub-network's own seed makes.
GROUPS, HEADS, VALUES, NEURONS, ROTARY, WIDTH, EXPERTS = range(7)


@dataclass(frozen=True)
class Ordering:
    """The entries of each dimension, most important first. They are numbers of the original teacher's entries.

    Shapes: layers (L,), embedding (E,), groups (L, G), heads (L, G, H/G) within each group, values (L, G, H_s) within
    each group, neurons (L, D). q and k entries are not ordered: rotary pairs must stay together (`head_pairs`). In a
    mixture, experts (L, N), and neurons (L, N, D) within each; experts are None otherwise.
    """

    fingerprint: str
    layers: np.ndarray
    embedding: np.ndarray
    groups: np.ndarray
    heads: np.ndarray
    values: np.ndarray
    neurons: np.ndarray
    experts: np.ndarray | None = None

    @classmethod
    def identity(cls, architecture: Architecture) -> "Ordering":
        """The teacher's own order (the paper's choice)."""
        layers, groups, heads = architecture.n_layer, architecture.n_query_groups, architecture.heads_per_group
        experts = (architecture.n_expert,) if architecture.n_expert else ()

        def rows(*shape: int) -> np.ndarray:
            return np.broadcast_to(np.arange(shape[-1]), shape).copy()

        return cls(
            fingerprint="none",
            layers=rows(layers),
            embedding=rows(architecture.n_embd),
            groups=rows(layers, groups),
            heads=rows(layers, groups, heads),
            values=rows(layers, groups, architecture.head_size),
            neurons=rows(layers, *experts, architecture.intermediate_size),
            experts=rows(layers, *experts) if experts else None,
        )


@dataclass(frozen=True)
class LayerSelection:
    """The kept entries of one layer. Shapes: groups (g,); heads (g, h), within each kept group; rotary (head_size,),
    the q and k entries of a head; values (g, head_size), the v entries of each kept group; neurons (d,). In a mixture,
    experts (n,), and neurons (n, d) of each kept one."""

    groups: np.ndarray
    heads: np.ndarray
    rotary: np.ndarray
    values: np.ndarray
    neurons: np.ndarray
    experts: np.ndarray | None = None


@dataclass(frozen=True)
class Selection:
    """The kept entries of the whole model: embedding (e,), and one LayerSelection per kept layer."""

    embedding: np.ndarray
    layers: tuple[LayerSelection, ...]


def rotary_run(architecture: Architecture, head_size: int, head_pairs: str) -> tuple[int, int, int]:
    """The rotary pairs that a head of this size keeps, as an arithmetic progression (offset, step, number of pairs).

    `head_pairs` is "last", "first" or "strided". Strided keeps every step-th pair, counted back from the last pair,
    with the largest step that leaves enough pairs. If more than half of the pairs are kept, the step is 1, as in
    "last".
    """
    total = architecture.rope_entries // 2
    kept = int(architecture.rotary_percentage * head_size) // 2
    if head_pairs == "first":
        return 0, 1, kept
    step = total // kept if head_pairs == "strided" else 1
    return total - step * (kept - 1) - 1, step, kept


def _rotary_entries(architecture: Architecture, head_size: int, head_pairs: str) -> np.ndarray:
    """The kept q and k entries (head_size,). With `head_pairs` "plain", these are the first entries, and pairs are
    broken; otherwise whole pairs, and non-rotary entries in the same pattern."""
    if head_pairs == "plain":
        return np.arange(head_size)
    rotary, entries = architecture.rope_entries, architecture.head_size
    offset, step, pairs = rotary_run(architecture, head_size, head_pairs)
    first_halves = offset + step * np.arange(pairs)
    free, kept_free = entries - rotary, head_size - 2 * pairs
    start = free - kept_free if head_pairs == "last" else 0
    stride = free // kept_free if head_pairs == "strided" and kept_free else 1
    return np.concatenate([first_halves, first_halves + rotary // 2, rotary + start + stride * np.arange(kept_free)])


def _first(order: np.ndarray, count: int | None) -> np.ndarray:
    return np.sort(order[..., :count], axis=-1)


# groups, heads, values, neurons, experts
_Kept = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def _coarse_layer(layer: int, gene: LayerGenes, ordering: Ordering) -> _Kept:
    groups = _first(ordering.groups[layer], gene.n_query_groups)
    experts, neurons = None, ordering.neurons[layer]
    if ordering.experts is not None:
        experts = _first(ordering.experts[layer], gene.n_expert)
        neurons = neurons[experts]
    return (
        groups,
        _first(ordering.heads[layer][groups], gene.heads_per_group),
        _first(ordering.values[layer][groups], gene.head_size),
        _first(neurons, gene.intermediate_size),
        experts,
    )


def _fine_layer(architecture: Architecture, gene: LayerGenes, seed: int) -> _Kept:
    """Draws whole permutations and cuts them, so that changing the size of a gene gives nested sets of entries."""
    groups, heads = architecture.n_query_groups, architecture.heads_per_group

    def order(purpose: int, rows: int, entries: int) -> np.ndarray:
        rng = np.random.default_rng([seed, purpose])
        return rng.permuted(np.broadcast_to(np.arange(entries), (rows, entries)), axis=1)

    kept = _first(order(GROUPS, 1, groups)[0], gene.n_query_groups)
    experts, neurons = None, order(NEURONS, architecture.n_expert or 1, architecture.intermediate_size)
    if architecture.n_expert:
        experts = _first(order(EXPERTS, 1, architecture.n_expert)[0], gene.n_expert)
    return (
        kept,
        _first(order(HEADS, groups, heads)[kept], gene.heads_per_group),
        _first(order(VALUES, groups, architecture.head_size)[kept], gene.head_size),
        _first(neurons[0] if experts is None else neurons[experts], gene.intermediate_size),
        experts,
    )


def select(sub: SubNetwork, architecture: Architecture, ordering: Ordering) -> Selection:
    """The teacher's entries that a sub-network keeps, each list in ascending order.

    Raises:
        SprigError: the sub-network was found under another ordering.
    """
    if sub.ordering != ordering.fingerprint:
        raise SprigError(
            f"Sub-network {sub.key} was found under ordering {sub.ordering} but would be cut under "
            f"{ordering.fingerprint}: use the ordering under which it was found."
        )
    layers = []
    for layer, gene in zip(sub.layers, sub.genes, strict=True):
        seed = gene.index_seed
        groups, heads, values, neurons, experts = (
            _coarse_layer(layer, gene, ordering) if seed is None else _fine_layer(architecture, gene, seed)
        )
        if seed is not None and sub.head_pairs == "plain":
            rng = np.random.default_rng([seed, ROTARY])
            rotary = _first(rng.permutation(architecture.head_size), gene.head_size)
        else:
            rotary = _rotary_entries(architecture, gene.head_size, sub.head_pairs)
        layers.append(LayerSelection(groups, heads, rotary, values, neurons, experts))
    width = ordering.embedding
    if sub.index_seed is not None:
        width = np.random.default_rng([sub.index_seed, WIDTH]).permutation(architecture.n_embd)
    return Selection(_first(width, sub.n_embd), tuple(layers))
