"""Which entries a sub-network keeps, in every space."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from architectures import PYTHIA_6_9B, SMOLLM2_135M

from pipeline.config import Granularity, HeadPairs, Layers, Sharing, SpaceConfig
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import LayerSelection, Ordering, rotary_run, select
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import GENES, SubNetwork, whole

SPACES = [(granularity, sharing) for granularity in Granularity for sharing in Sharing]
# Fields of a layer's selection, and the gene that sizes each.
SIZES = {
    "groups": "n_query_groups",
    "heads": "heads_per_group",
    "rotary": "head_size",
    "values": "head_size",
    "neurons": "intermediate_size",
}


def shuffled(architecture, seed=0) -> Ordering:
    identity, rng = Ordering.identity(architecture), np.random.default_rng(seed)
    names = ("layers", "embedding", "groups", "heads", "values", "neurons")
    arrays = {name: rng.permuted(getattr(identity, name), axis=-1) for name in names}
    return Ordering(fingerprint="shuffled", **arrays)


def samples(granularity, sharing, number=20, **config) -> list[SubNetwork]:
    space = Space(
        SMOLLM2_135M,
        SpaceConfig(granularity=granularity, sharing=sharing, layers=Layers.subset, **config),
        Bin(0, 1, parameters(SMOLLM2_135M)),
        shuffled(SMOLLM2_135M),
    )
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(number)]


def kept(sub: SubNetwork):
    return select(sub, SMOLLM2_135M, shuffled(SMOLLM2_135M))


def with_gene(sub: SubNetwork, name: str, value: int) -> SubNetwork:
    return replace(sub, genes=tuple(replace(gene, **{name: value}) for gene in sub.genes))


def as_sets(layer: LayerSelection) -> dict[tuple, set]:
    """The kept entries of each list that a layer has, by the teacher's group where it has one a group."""
    lists = {(name,): getattr(layer, name) for name in ("groups", "rotary", "neurons")}
    for name in ("heads", "values"):
        rows = zip(layer.groups.tolist(), getattr(layer, name), strict=True)
        lists |= {(name, group): entries for group, entries in rows}
    return {key: set(entries.tolist()) for key, entries in lists.items()}


@pytest.mark.parametrize("pairs", HeadPairs)
@pytest.mark.parametrize(("granularity", "sharing"), SPACES)
def test_lists_have_the_genes_sizes_and_no_entry_twice(granularity, sharing, pairs):
    architecture = SMOLLM2_135M
    ends = {
        "groups": architecture.n_query_groups,
        "heads": architecture.heads_per_group,
        "rotary": architecture.head_size,
        "values": architecture.head_size,
        "neurons": architecture.intermediate_size,
    }
    for sub in samples(granularity, sharing, head_pairs=pairs):
        selection = kept(sub)
        assert len(selection.embedding) == sub.n_embd
        assert (np.diff(selection.embedding) > 0).all() and selection.embedding[-1] < architecture.n_embd
        for gene, layer in zip(sub.genes, selection.layers, strict=True):
            for name, size in SIZES.items():
                entries = getattr(layer, name)
                assert entries.shape[-1] == getattr(gene, size)
                # Rotary lists are two ascending halves: entry i of one makes a pair with entry i of the other.
                halves = np.split(entries, 2) if name == "rotary" and pairs != "plain" else [entries]
                assert all((np.diff(half, axis=-1) > 0).all() for half in halves), name
                assert entries.min() >= 0 and entries.max() < ends[name]
                assert name != "rotary" or len(set(entries.tolist())) == len(entries)
            assert len(layer.heads) == len(layer.values) == gene.n_query_groups


@pytest.mark.parametrize(("granularity", "sharing"), SPACES)
def test_a_resized_gene_keeps_a_nested_set(granularity, sharing):
    for sub in samples(granularity, sharing, 5):
        for name in GENES:
            teachers = getattr(whole(SMOLLM2_135M).genes[0], name)
            sizes = {2, 8, 32, teachers} if name == "head_size" else {1, 2, teachers // 2, teachers} - {0}
            for few, many in pairwise(sorted(sizes)):
                pair = [kept(with_gene(sub, name, size)) for size in (few, many)]
                for small, large in zip(*(selection.layers for selection in pair), strict=True):
                    small, large = as_sets(small), as_sets(large)
                    assert small.keys() <= large.keys()
                    assert all(small[key] <= large[key] for key in small), name
        narrow, wide = (set(kept(replace(sub, n_embd=width)).embedding.tolist()) for width in (64, 320))
        assert narrow < wide


def test_layers_share_their_entries_in_fine_uniform_spaces_alone():
    def distinct(granularity, sharing):
        sub = with_gene(samples(granularity, sharing, 1)[0], "intermediate_size", 64)
        return len({layer.neurons.tobytes() for layer in kept(sub).layers}), sub.n_layer

    assert distinct(Granularity.fine, Sharing.uniform)[0] == 1
    for granularity, sharing in [space for space in SPACES if space != (Granularity.fine, Sharing.uniform)]:
        found, layers = distinct(granularity, sharing)
        assert found == layers > 1


def test_coarse_layers_keep_the_first_entries_of_the_ordering():
    order = shuffled(SMOLLM2_135M)
    for sub in samples(Granularity.coarse, Sharing.layerwise, 5):
        for number, gene, layer in zip(sub.layers, sub.genes, kept(sub).layers, strict=True):
            assert set(layer.neurons) == set(order.neurons[number][: gene.intermediate_size])
            assert set(layer.groups) == set(order.groups[number][: gene.n_query_groups])
            for row, group in enumerate(layer.groups):
                assert set(layer.heads[row]) == set(order.heads[number][group][: gene.heads_per_group])
                assert set(layer.values[row]) == set(order.values[number][group][: gene.head_size])


@pytest.mark.parametrize(
    ("pairs", "head_size", "expected"),
    [
        ("last", 20, range(22, 32)),
        ("first", 20, range(10)),
        ("strided", 20, range(4, 32, 3)),
        ("strided", 32, range(1, 32, 2)),
        ("strided", 34, range(15, 32)),  # beyond half of the pairs: the last ones, never the first
        ("strided", 2, [31]),
        ("last", 64, range(32)),
        ("strided", 64, range(32)),
        ("first", 64, range(32)),
    ],
)
def test_runs_of_pairs(pairs, head_size, expected):
    offset, step, count = rotary_run(SMOLLM2_135M, head_size, pairs)
    assert list(range(offset, offset + step * count, step)) == list(expected)
    sub = replace(with_gene(whole(SMOLLM2_135M), "head_size", head_size), head_pairs=pairs)
    rotary = select(sub, SMOLLM2_135M, Ordering.identity(SMOLLM2_135M)).layers[0].rotary
    assert rotary.tolist() == [*expected, *(pair + 32 for pair in expected)]


@pytest.mark.parametrize("architecture", [SMOLLM2_135M, PYTHIA_6_9B])
def test_plain_keeps_the_first_entries_and_breaks_pairs(architecture):
    sub = replace(with_gene(whole(architecture), "head_size", 24), head_pairs="plain")
    assert select(sub, architecture, Ordering.identity(architecture)).layers[0].rotary.tolist() == list(range(24))


def test_fine_plain_draws_q_and_k_entries_too():
    sub = samples(Granularity.fine, Sharing.layerwise, 1, head_pairs=HeadPairs.plain)[0]
    layers = kept(with_gene(sub, "head_size", 24)).layers
    assert len({layer.rotary.tobytes() for layer in layers}) == len(layers)
