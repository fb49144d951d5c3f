"""The choices that need no search: what exactly they choose, and what they say where a space has no such member."""

from dataclasses import replace

import numpy as np
import pytest
from architectures import PYTHIA_6_9B
from toy import TEACHER

from pipeline.config import BinConfig, Exportable, Granularity, Layers, Sharing, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.search.strategies.first_layers import first_layers
from pipeline.search.strategies.importance import importance
from pipeline.search.strategies.uniform import uniform
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space

LARGE = replace(
    TEACHER, n_layer=12, n_embd=256, n_head=16, n_query_groups=4, head_size=32, intermediate_size=1024, vocab_size=50
)
RANKED = replace(
    Ordering.identity(LARGE), fingerprint="ranked", layers=np.array([11, 0, 5, 1, 2, 3, 4, 6, 7, 8, 9, 10])
)


def space_of(share: float, tolerance: float = 0.05, ordering: Ordering | None = RANKED, **config) -> Space:
    center = round(share * parameters(LARGE))
    return Space(LARGE, SpaceConfig(**config), make_bin(BinConfig(center=center, tolerance=tolerance)), ordering)


@pytest.mark.parametrize("share", [0.08, 0.2, 0.35, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("sharing", Sharing)
def test_uniform_scales_every_dimension_alike(share, sharing):
    space = space_of(share, sharing=sharing, step=Sizes(n_embd=32))  # a quarter of this width is a large step
    sub = uniform(space)
    assert space.contains(sub) and sub.uniform and sub.layers == tuple(range(sub.n_layer))
    gene = sub.genes[0]
    ratios = {
        "n_layer": sub.n_layer / 12,
        "n_embd": sub.n_embd / 256,
        "heads_per_group": gene.heads_per_group / 4,
        "head_size": gene.head_size / 32,
    }
    half_steps = {name: 0.5 * (grid[1] - grid[0]) / grid[-1] for name, grid in space.grids.items()}
    low = max(ratio - half_steps[name] for name, ratio in ratios.items())
    high = min(ratio + half_steps[name] for name, ratio in ratios.items())
    assert low <= high, "one factor explains all sizes, each within half a step"
    assert low - 0.1 <= gene.intermediate_size / 1024 <= high + 0.1, "the MLP may have given way for the bin"


def test_uniform_leaves_held_dimensions_alone():
    space = space_of(0.5, hold=["n_embd", "head_size", "n_layer"])
    sub = uniform(space)
    assert space.contains(sub) and (sub.n_embd, sub.n_layer, sub.genes[0].head_size) == (256, 12, 32)
    assert sub.genes[0].n_head < 16


def test_uniform_in_a_narrow_bin_gives_way_in_the_mlp():
    """No grid point of the line itself is in this bin of one part in five hundred."""
    space = space_of(0.5, tolerance=0.002, step=Sizes(intermediate_size=1))
    sub = uniform(space)
    assert space.contains(sub) and sub.uniform


def test_uniform_falls_back_on_fitting_where_the_mlp_is_held():
    space = space_of(0.5, tolerance=0.004, hold=["intermediate_size"])
    assert space.contains(uniform(space)) and uniform(space) == uniform(space)


def test_importance_keeps_attention_whole_and_the_most_influential_layers():
    space = space_of(0.5, layers=Layers.rank)
    sub = importance(space)
    assert space.contains(sub) and sub.uniform
    assert sub.layers == tuple(sorted(RANKED.layers[: sub.n_layer].tolist()))
    gene = sub.genes[0]
    assert (gene.n_query_groups, gene.heads_per_group, gene.head_size) == (4, 4, 32)
    assert sub.n_layer < 12 and sub.n_embd < 256 and gene.intermediate_size < 1024


def test_where_no_single_shape_lands_the_most_influential_layers_have_one_step_more_of_mlp():
    """In bins narrower than a step of all MLPs, but wider than one of a single layer."""
    found = [importance(space_of(share, tolerance=0.004, layers=Layers.rank)) for share in np.arange(0.3, 1, 0.05)]
    attention = {(gene.n_query_groups, gene.heads_per_group, gene.head_size) for sub in found for gene in sub.genes}
    assert attention == {(4, 4, 32)}, "it stays whole"
    mixed = [sub for sub in found if not sub.uniform]
    assert len(mixed) > 5
    for sub in mixed:
        width = {layer: gene.intermediate_size for layer, gene in zip(sub.layers, sub.genes, strict=True)}
        ranked = [width[layer] for layer in RANKED.layers.tolist() if layer in width]
        assert ranked == sorted(ranked, reverse=True) and max(ranked) - min(ranked) == 64


def test_first_layers_keeps_the_first_layers_whole():
    space = space_of(0.5)
    sub = first_layers(space)
    assert space.contains(sub)
    assert sub.layers == tuple(range(sub.n_layer)) and sub.n_embd == 256
    gene = sub.genes[0]
    assert (gene.n_head, gene.n_query_groups, gene.head_size, gene.intermediate_size) == (16, 4, 32, 1024)
    counts = {depth: abs(parameters(LARGE, cut(sub, depth)) - space.bin.center) for depth in range(1, 13)}
    assert sub.n_layer == min(counts, key=counts.get)


def cut(sub, depth):
    return replace(sub, layers=tuple(range(depth)), genes=sub.genes[:1] * depth)


@pytest.mark.parametrize("rule", [uniform, first_layers, importance])
@pytest.mark.parametrize("sharing", Sharing)
def test_a_searched_set_of_layers_has_all_of_them(rule, sharing):
    space = space_of(0.5, layers=Layers.subset, sharing=sharing)
    assert space.contains(rule(space))


@pytest.mark.parametrize("rule", [uniform, importance])
@pytest.mark.parametrize("center", [405_334_016, 1_011_781_632, 2_775_208_960])
def test_where_heads_share_out_the_width_they_still_do(rule, center):
    """Stock GPT-NeoX has no head size of its own: one that is scaled by itself would fit no class."""
    config = SpaceConfig(sharing=Sharing.uniform, exportable=Exportable.stock, layers=Layers.subset)
    space = Space(PYTHIA_6_9B, config, make_bin(BinConfig(center=center)), Ordering.identity(PYTHIA_6_9B))
    sub = rule(space)
    assert space.contains(sub)
    assert sub.genes[0].n_head * sub.genes[0].head_size == sub.n_embd


@pytest.mark.parametrize(
    ("rule", "config", "said"),
    [
        (uniform, {"granularity": Granularity.fine}, "uniform keeps first entries.*needs space.granularity=coarse"),
        (first_layers, {"granularity": Granularity.fine}, "needs space.granularity=coarse"),
        (first_layers, {"layers": Layers.rank}, "needs space.layers=prefix or subset"),
        (first_layers, {"max": Sizes(n_embd=128)}, "space.max.n_embd=128: it needs space.max.n_embd=null"),
        (first_layers, {"tolerance": 0.001}, "at its nearest depth, 6, outside bin"),
        (
            first_layers,
            {"max_kv_bytes_per_token": 2_000},
            "3,072 bytes per token .* beyond space.max_kv_bytes_per_token=2,000",
        ),
        (importance, {"granularity": Granularity.fine, "layers": Layers.rank}, "needs space.granularity=coarse"),
        (importance, {"layers": Layers.prefix}, "space.layers=prefix: it needs space.layers=rank or subset"),
        (importance, {"layers": Layers.subset, "ordering": None}, "and ordering=importance"),
    ],
)
def test_what_a_space_would_need(rule, config, said):
    with pytest.raises(SprigError, match=said):
        rule(space_of(config.pop("share", 0.3 if "max" in config else 0.5), **config))


def test_uniform_is_fitted_layer_by_layer_where_no_shape_lands():
    """The bin holds one count, a neuron of one layer below the teacher."""
    held = ["n_embd", "n_query_groups", "heads_per_group", "head_size", "n_layer"]
    center = parameters(LARGE) - 3 * 256
    space = Space(
        LARGE,
        SpaceConfig(hold=held, step=Sizes(intermediate_size=1)),
        make_bin(BinConfig(center=center, tolerance=0.0)),
        RANKED,
    )
    sub = uniform(space)
    assert space.contains(sub) and not sub.uniform
