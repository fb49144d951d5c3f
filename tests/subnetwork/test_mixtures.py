"""Mixtures of experts in a search space: their genes, their counts, and what is refused."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from architectures import TOY, assert_reached, sizes

from pipeline.config import Sharing, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.search.strategies.uniform import uniform
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.grids import make_grids
from pipeline.subnetwork.neighbours import neighbour, swap
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import LayerGenes, SubNetwork, check, whole

MIXTURE = replace(TOY, name="mixture", family="qwen3_moe", n_expert=4, n_expert_per_token=2)
HELD = ["n_embd", "n_query_groups", "heads_per_group", "head_size"]


def config_of(**config) -> SpaceConfig:
    return SpaceConfig(step=Sizes(intermediate_size=3), **config)


def every(sharing: Sharing):
    """All that keep attention and the first layers: widths 3 and 6, experts 2 to 4, of which a token passes 1 or 2."""
    rows = [LayerGenes(2, 2, 4, width, None, *experts) for width, *experts in product((3, 6), (2, 3, 4), (1, 2))]
    for depth in (1, 2):
        for genes in product(rows, repeat=depth) if sharing == Sharing.layerwise else [(row,) * depth for row in rows]:
            yield SubNetwork(tuple(range(depth)), 8, genes)


@pytest.mark.parametrize("count", ["total", "active"])
@pytest.mark.parametrize("sharing", Sharing)
def test_sampling_and_mutation_reach_every_member_and_nothing_else(sharing, count):
    config = config_of(sharing=sharing, hold=HELD, **{"max": Sizes(n_layer=2)})
    counts = {sizes(sub): parameters(MIXTURE, sub, count) for sub in every(sharing)}
    low, high = np.quantile(list(counts.values()), (0.3, 0.8))
    members = {key for key, size in counts.items() if low <= size <= high}
    assert 0 < len(members) < len(counts)
    space = Space(MIXTURE, config, Bin(int(low), int(low), int(high), count), None)
    assert_reached(space, members, most=60_000)
    rng = np.random.default_rng(1)
    subs = [space.sample(rng) for _ in range(20)]
    for a, b in pairwise(subs):
        for child in (space.crossover(a, b, rng), neighbour(space, a, rng), swap(space, a, rng, 3)):
            assert space.contains(child) and sizes(child) in members


def test_a_neighbour_in_the_experts_of_a_token_costs_no_parameters():
    space = Space(MIXTURE, config_of(hold=["n_layer", *HELD]), Bin(0, 1, parameters(MIXTURE)), None)
    rng, found = np.random.default_rng(0), Counter()
    parent = whole(MIXTURE)
    for _ in range(300):
        child = swap(space, parent, rng, 1)
        changed = {name for a, b in zip(parent.genes, child.genes, strict=True)
                   for name in space.genes if getattr(a, name) != getattr(b, name)}  # fmt: skip
        found.update([frozenset(changed)])
    assert found[frozenset(["n_expert_per_token"])] > 20


def test_flops_and_active_parameters_count_the_experts_of_a_token():
    gene = LayerGenes(2, 2, 4, 6, None, 3, 2)
    sub = SubNetwork((0, 1), 8, (gene, replace(gene, n_expert_per_token=1)))
    expert, length = 3 * 8 * 6, 16
    attention, outer = (
        8 * (2 * 16 + 2 * 8) + 2 * 8 + 2 * 4,
        8 + 2 * 12 * 8,
    )  # with norms; final norm, embedding and head
    assert parameters(MIXTURE, sub) == 2 * (attention + 3 * 8 + 3 * expert) + outer
    assert parameters(MIXTURE, sub, "active") == 2 * (attention + 3 * 8) + 3 * expert + outer
    products = 2 * (8 * (2 * 16 + 2 * 8) + 3 * 8) + 3 * expert + 12 * 8
    assert flops_per_token(MIXTURE, sub, length=length) == 2 * products + 2 * 2 * length * 16


def test_flops_limit_the_experts_of_a_token():
    least = replace(whole(MIXTURE), genes=(LayerGenes(2, 2, 4, 3, None, 4, 1),) * 3)
    most = sum(flops_per_token(MIXTURE, sub, length=16) for sub in (least, whole(MIXTURE))) // 2
    config = config_of(hold=["n_layer", *HELD, "n_expert"], max_flops_per_token=most)
    space = Space(MIXTURE, config, Bin(0, 1, parameters(MIXTURE)), None, length=16)
    subs = [space.sample(np.random.default_rng(seed)) for seed in range(20)]
    assert all(flops_per_token(MIXTURE, sub, length=16) <= most for sub in subs)
    assert {gene.n_expert_per_token for sub in subs for gene in sub.genes} == {1, 2}


def test_a_rule_scales_experts_too():
    space = Space(MIXTURE, config_of(sharing="uniform"), Bin(0, 1, parameters(MIXTURE) // 3), None)
    found = uniform(space)
    assert space.contains(found) and found.genes[0].n_expert < 4


def test_layers_of_different_experts_have_no_stock_class():
    genes = tuple(LayerGenes(2, 2, 4, 6, None, experts, 2) for experts in (3, 4, 4))
    sub = replace(whole(MIXTURE), genes=genes)
    assert exported(MIXTURE, sub).form == "own" and exported(MIXTURE, whole(MIXTURE)).form == "stock"
    narrow = replace(sub, genes=(*whole(MIXTURE).genes[:2], LayerGenes(2, 2, 4, 3, None, 4, 2)))
    assert exported(MIXTURE, narrow).form == "padded"
    assert exported(MIXTURE, narrow).parameters == exported(MIXTURE, whole(MIXTURE)).parameters


def test_a_subnetwork_survives_json():
    sub = whole(MIXTURE)
    assert SubNetwork.from_dict(sub.to_dict()) == sub and sub.to_dict()["genes"][0]["n_expert"] == 4
    assert set(whole(TOY).to_dict()["genes"][0]) == {*HELD[1:], "intermediate_size", "index_seed"}


@pytest.mark.parametrize(
    "gene, message",
    [
        (LayerGenes(2, 2, 4, 6), "n_expert=None and n_expert_per_token=None at layer 0, but teacher mixture has 4"),
        (LayerGenes(2, 2, 4, 6, None, 5, 2), r"n_expert at layer 0=5 is outside 1\.\.4"),
        (LayerGenes(2, 2, 4, 6, None, 1, 2), "n_expert=1 at layer 0 is below its n_expert_per_token=2"),
    ],
)
def test_impossible_experts_are_one_sentence(gene, message):
    with pytest.raises(SprigError, match=message):
        check(SubNetwork((0,), 8, (gene,)), MIXTURE)


def test_experts_without_a_mixture_are_one_sentence():
    with pytest.raises(SprigError, match="at layer 0, but teacher toy has no experts"):
        check(SubNetwork((0,), 8, (LayerGenes(2, 2, 4, 6, None, 4, 2),)), TOY)
    with pytest.raises(SprigError, match=r"space\.min\.n_expert is set, but teacher toy has no experts: remove it"):
        make_grids(TOY, SpaceConfig(min=Sizes(n_expert=2)))
    with pytest.raises(SprigError, match=r"bin\.count=active counts .* but toy has none: use bin\.count=total"):
        Space(TOY, SpaceConfig(), Bin(0, 1, 10_000, "active"), None)


def test_fewer_experts_than_a_token_passes_are_one_sentence():
    message = r"at most n_expert=1, fewer than its n_expert_per_token=2: .* space\.max\.n_expert_per_token=1"
    with pytest.raises(SprigError, match=message):
        make_grids(MIXTURE, SpaceConfig(max=Sizes(n_expert=1)))
    assert make_grids(MIXTURE, SpaceConfig(max=Sizes(n_expert=1, n_expert_per_token=1)))["n_expert"] == [1]
    assert make_grids(MIXTURE, SpaceConfig())["n_expert"] == [2, 3, 4]
