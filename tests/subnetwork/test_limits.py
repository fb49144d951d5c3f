"""Limits beside the bin: kept by construction, reaching all that they allow, and clear where they allow nothing."""

import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from architectures import PYTHIA_6_9B, SMOLLM2_135M, TOY, TOY_STEPS, assert_reached, every_subnetwork, sizes
from covering import slow

from pipeline.config import Exportable, Layers, Sharing, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import flops_per_token, kv_bytes_per_token, parameters
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.neighbours import neighbour, swap
from pipeline.subnetwork.space import Space

HALF = Bin(67_257_504, 63_894_629, 70_620_379)
# Below the median sample of that bin: 142 million FLOPs, 8,800 bytes.
TIGHT, LENGTH = {"max_flops_per_token": 136_000_000, "max_kv_bytes_per_token": 6_000}, 1024


def within(teacher, config, sub, length) -> bool:
    flops = flops_per_token(teacher, sub, length=length)
    return (
        flops <= (config.max_flops_per_token or flops)
        and kv_bytes_per_token(teacher, sub, value_bytes=2) <= config.max_kv_bytes_per_token
    )


@pytest.mark.parametrize("sharing", Sharing)
def test_every_operator_keeps_the_limits(sharing):
    config = SpaceConfig(sharing=sharing, layers=Layers.subset, **TIGHT)
    space, rng = Space(SMOLLM2_135M, config, HALF, None, length=LENGTH), np.random.default_rng(0)
    wide = Space(SMOLLM2_135M, SpaceConfig(sharing=sharing, layers=Layers.subset), HALF, None)
    assert sum(within(SMOLLM2_135M, config, wide.sample(rng), LENGTH) for _ in range(50)) < 25, "the limits bind"
    parent = space.sample(rng)
    for _ in range(12):
        other = space.sample(rng)
        found = [other, space.mutate(parent, rng, 0.2, 0.4), space.crossover(parent, other, rng)]
        found += [neighbour(space, parent, rng), swap(space, parent, rng, 3)]
        for sub in found:
            assert HALF.contains(parameters(SMOLLM2_135M, sub)) and within(SMOLLM2_135M, config, sub, LENGTH)
            assert space.contains(sub)
        parent = found[1]


@pytest.mark.parametrize("sharing", [Sharing.uniform, *slow([[Sharing.layerwise]])])
def test_sampling_and_mutation_reach_every_member_within_the_limits(sharing):
    bin = Bin(0, 500, 1200) if sharing == Sharing.uniform else Bin(0, 900, 920)
    config = SpaceConfig(
        sharing=sharing,
        step=Sizes(**TOY_STEPS),
        max_flops_per_token=1300 if sharing == Sharing.uniform else 1900,
        max_kv_bytes_per_token=32 if sharing == Sharing.uniform else 40,
    )
    every = [sub for sub in every_subnetwork(config) if bin.contains(parameters(TOY, sub))]
    members = {sizes(sub) for sub in every if within(TOY, config, sub, 16)}
    assert 9 < len(members) < 0.6 * len(every)
    assert_reached(Space(TOY, config, bin, None, length=16), members, most=40_000)


def test_no_limit_shuts_out_a_shape_that_has_a_member():
    """What is ruled out before anything is drawn has no member: against all sub-networks of the toy, listed."""
    bin = Bin(0, 860, 900)
    for flops in (900, 1800):
        for cache in (8, 32):
            config = SpaceConfig(step=Sizes(**TOY_STEPS), max_flops_per_token=flops, max_kv_bytes_per_token=cache)
            shapes = {
                (sub.n_layer, sub.n_embd)
                for sub in every_subnetwork(config)
                if bin.contains(parameters(TOY, sub)) and within(TOY, config, sub, 16)
            }
            if not shapes:
                with pytest.raises(SprigError):
                    Space(TOY, config, bin, None, length=16)
                continue
            space, rng = Space(TOY, config, bin, None, length=16), np.random.default_rng(0)
            drawn = {(sub.n_layer, sub.n_embd) for sub in (space.sample(rng) for _ in range(200))}
            assert drawn == shapes


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"max_flops_per_token": 1_000_000},
            r"max_flops_per_token=1,000,000 cannot be reached from teacher smollm2-135m in this space: the minimum is "
            r"6,451,200 FLOPs per token \(forward, over 8,192 tokens\), 5,451,200 more; raise the limit",
        ),
        (
            {"max_kv_bytes_per_token": 31},
            r"max_kv_bytes_per_token=31 cannot be reached .* the minimum is 32 bytes per token \(KV cache, 2 bytes per "
            r"entry\), 1 more",
        ),
        (
            {"max_flops_per_token": 100_000_000},
            r"max_flops_per_token=100,000,000 and bin 63,894,629\.\.70,620,379 contradict each other: in the bin a "
            r"sub-network takes at least 12\d,\d+,\d+ FLOPs per token .*raise the limit, lower the bin",
        ),
        (
            {"max_kv_bytes_per_token": 300},
            r"max_kv_bytes_per_token=300 and bin .* contradict each other: .* at least 448 bytes .* 148 more",
        ),
    ],
)
def test_limits_that_allow_nothing_are_named_with_what_is_missing(limits, said):
    with pytest.raises(SprigError, match=said):
        Space(SMOLLM2_135M, SpaceConfig(**limits), HALF, None)


def test_a_limit_just_above_what_the_bin_needs_is_met():
    """Only with the least attention, all of whose room the MLPs take."""
    needed, config = 129_590_858, SpaceConfig(max_flops_per_token=130_000_000)
    with pytest.raises(SprigError, match=f"at least {needed:,} FLOPs per token"):
        Space(SMOLLM2_135M, replace(config, max_flops_per_token=needed - 1), HALF, None)
    space, rng = Space(SMOLLM2_135M, config, HALF, None), np.random.default_rng(0)
    parent = space.sample(rng)
    for sub in (parent, space.mutate(parent, rng, 0.2, 0.4), space.crossover(parent, space.sample(rng), rng)):
        assert space.contains(sub) and flops_per_token(SMOLLM2_135M, sub, length=8192) <= 130_000_000


def test_a_limit_between_two_steps_names_the_nearest_and_what_it_lacks():
    said = r"within space\.max_flops_per_token=129,592,000: .* has 63,865,152 parameters, 29,477 too few; raise"
    with pytest.raises(SprigError, match=said):
        Space(SMOLLM2_135M, SpaceConfig(max_flops_per_token=129_592_000), HALF, None)


def test_limits_are_not_blamed_where_the_bin_is_out_of_reach_without_them():
    with pytest.raises(SprigError, match=r"it reaches 3,160,256\.\.134,515,008; choose a bin inside") as error:
        Space(SMOLLM2_135M, SpaceConfig(max_kv_bytes_per_token=10_000), Bin(0, 140_000_000, 150_000_000), None)
    assert "max_kv" not in str(error.value)


def test_limits_that_contradict_only_each_other_name_by_how_much():
    """Without MLPs that could grow, query heads cost FLOPs, query groups the cache."""
    flops, cache = {"max_flops_per_token": 185_000_000}, {"max_kv_bytes_per_token": 9_000}
    bin, narrow = Bin(0, 45_000_000, 46_000_000), Sizes(intermediate_size=128)
    for limits in (flops, cache):
        Space(SMOLLM2_135M, SpaceConfig(max=narrow, **limits), bin, None)
    said = r"185,000,000 and space\.max_kv_bytes_per_token=9,000 contradict one another: .* at least ([\d.]+)% higher"
    with pytest.raises(SprigError, match=said) as error:
        Space(SMOLLM2_135M, SpaceConfig(max=narrow, **flops, **cache), bin, None)
    more = 1 + float(re.search(said, str(error.value))[1]) / 100
    for factor, is_met in ((more - 0.002, False), (more + 0.03, True)):
        limits = {name: round(most * factor) for name, most in (flops | cache).items()}
        with nullcontext() if is_met else pytest.raises(SprigError, match="contradict one another"):
            Space(SMOLLM2_135M, SpaceConfig(max=narrow, **limits), bin, None)


# --- shapes that export as stock classes


def test_stock_neox_splits_its_width_among_the_heads():
    config = SpaceConfig(sharing=Sharing.uniform, exportable=Exportable.stock)
    bin = Bin(405_334_016, 385_067_316, 425_600_716)
    space, rng = Space(PYTHIA_6_9B, config, bin, None), np.random.default_rng(0)
    parent, widths = space.sample(rng), set()
    for _ in range(60):
        other = space.sample(rng)
        for sub in (other, space.mutate(parent, rng, 0.3, 0.4), space.crossover(parent, other, rng)):
            assert space.contains(sub) and bin.contains(parameters(PYTHIA_6_9B, sub))
            assert sub.genes[0].n_head * sub.genes[0].head_size == sub.n_embd
            widths.add(sub.n_embd)
        assert neighbour(space, parent, rng).genes[0].n_head == parent.genes[0].n_head
        parent = other
    assert len(widths) > 5


def test_stock_gemma_has_widths_that_its_heads_divide():
    """3 heads do not divide the teacher's own width."""
    gemma = replace(SMOLLM2_135M, family="gemma3", n_embd=640, n_head=4, n_query_groups=1, rope_adjusted=True)
    config = SpaceConfig(sharing=Sharing.uniform, exportable=Exportable.stock)
    space, rng = Space(gemma, config, Bin(0, 1, parameters(gemma)), None), np.random.default_rng(0)
    samples = [space.sample(rng) for _ in range(40)]
    assert all(exported(gemma, sub).form == "stock" for sub in samples)
    assert {sub.genes[0].n_head for sub in samples} == {1, 2, 4}
    with pytest.raises(SprigError, match=r"leaves no heads_per_group .* in Gemma a width that the heads divide"):
        Space(replace(gemma, n_embd=639), replace(config, hold=["heads_per_group"]), HALF, None)


def test_stock_needs_one_shape_for_all_layers():
    with pytest.raises(
        SprigError, match=r"exportable=stock, but space\.sharing=layerwise .* use space\.sharing=uniform"
    ):
        Space(SMOLLM2_135M, SpaceConfig(exportable=Exportable.stock), HALF, None)


def test_adjusted_rotary_frequencies_hold_the_head_size():
    adjusted = replace(SMOLLM2_135M, rope_adjusted=True)
    config = SpaceConfig(sharing=Sharing.uniform, exportable=Exportable.stock)
    assert Space(adjusted, config, HALF, None).grids["head_size"] == [64]
    with pytest.raises(SprigError, match=r"leaves no head_size"):
        Space(adjusted, replace(config, max=Sizes(head_size=32)), HALF, None)


@pytest.mark.parametrize("sharing", Sharing)
def test_the_least_flops_of_a_space_are_a_bound_near_its_cheapest_member(sharing):
    bin = Bin(0, 500, 1200) if sharing == Sharing.uniform else Bin(0, 900, 920)
    config = SpaceConfig(sharing=sharing, step=Sizes(**TOY_STEPS))
    members = [sub for sub in every_subnetwork(config) if bin.contains(parameters(TOY, sub))]
    cheapest = min(flops_per_token(TOY, sub, length=16) for sub in members)
    assert 0.9 * cheapest < Space(TOY, config, bin, None).least_flops_per_token(16) <= cheapest
