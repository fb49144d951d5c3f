"""Sampling, mutation and crossover stay in the bin, reach all of it, and starve nothing."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from architectures import (
    HALF,
    PYTHIA_6_9B,
    SMOLLM2_135M,
    SPACES,
    TOY,
    assert_reached,
    every_subnetwork,
    sizes,
    space,
    toy_config,
)

from pipeline.config import Count, Granularity, Layers, Sharing, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import GENES, LayerGenes, SubNetwork, check, whole

CONF = Path(__file__).parents[2] / "conf"


# --- always in the bin


@pytest.mark.slow
@pytest.mark.parametrize(("granularity", "sharing"), SPACES)
def test_ten_thousand_of_each_lie_in_the_bin(granularity, sharing):
    _check_in_bin("pythia", granularity, sharing, 10_000)


@pytest.mark.parametrize(("granularity", "sharing"), SPACES)
@pytest.mark.parametrize("teacher", ["smollm2", "pythia"])
def test_each_lies_in_the_bin(teacher, granularity, sharing):
    _check_in_bin(teacher, granularity, sharing, 50)


def _check_in_bin(teacher, granularity, sharing, number):
    architecture, bin = {
        "smollm2": (SMOLLM2_135M, HALF),
        "pythia": (PYTHIA_6_9B, Bin(405_334_016, 385_067_316, 425_600_716)),
    }[teacher]
    found = space(architecture, bin, granularity=granularity, sharing=sharing, layers=Layers.subset)
    rng = np.random.default_rng(0)
    samples = [found.sample(rng) for _ in range(number)]
    mutants = [found.mutate(parent, rng, 0.2, 0.4) for parent in samples]
    children = [found.crossover(a, b, rng) for a, b in zip(samples, reversed(mutants), strict=True)]
    for sub in (*samples, *mutants, *children):
        check(sub, architecture)
        assert bin.low <= parameters(architecture, sub) <= bin.high
        assert found.contains(sub)
        assert sub.uniform or sharing == Sharing.layerwise
        assert SubNetwork.from_dict(json.loads(json.dumps(sub.to_dict()))) == sub
    assert all(mutant != parent for mutant, parent in zip(mutants, samples, strict=True))
    if sharing == Sharing.layerwise:
        assert len(set(samples)) > 0.99 * number


def test_non_embedding_bins():
    bin = Bin(0, 40_000_000, 42_000_000, str(Count.non_embedding))
    found, rng = space(bin=bin), np.random.default_rng(0)
    for _ in range(100):
        sub = found.mutate(found.sample(rng), rng, 0.2, 0.4)
        assert bin.contains(parameters(SMOLLM2_135M, sub, "non_embedding"))
        assert not bin.contains(parameters(SMOLLM2_135M, sub))


# --- every member of a small space is reached


EVERY = [(*each, layers) for each in SPACES for layers in (Layers.prefix, Layers.subset)]
FEW = [  # each value of each option
    (Granularity.fine, Sharing.uniform, Layers.prefix),
    (Granularity.coarse, Sharing.layerwise, Layers.subset),
]


@pytest.mark.parametrize(
    ("granularity", "sharing", "layers"),
    [pytest.param(*each, marks=[] if each in FEW else pytest.mark.slow) for each in EVERY],
)
def test_sampling_and_mutation_reach_every_member_and_nothing_else(granularity, sharing, layers):
    config = toy_config(granularity=granularity, sharing=sharing, layers=layers)
    bin = Bin(0, 500, 1200) if sharing == Sharing.uniform else Bin(0, 900, 920)
    members = {sizes(sub) for sub in every_subnetwork(config) if bin.contains(parameters(TOY, sub))}
    assert len(members) > 40
    assert_reached(Space(TOY, config, bin, None), members, most=60_000)


@pytest.mark.slow
def test_mutation_reaches_every_member_at_any_rates():
    config = toy_config(layers=Layers.subset)
    bin = Bin(0, 1400, 1450)
    members = {sub for sub in every_subnetwork(config) if bin.contains(parameters(TOY, sub))}
    for rates in ((0.01, 0.01), (1.0, 1.0)):
        found, rng = Space(TOY, config, bin, None), np.random.default_rng(0)
        sub, seen = found.sample(rng), set()
        for _ in range(30_000):
            sub = found.mutate(sub, rng, *rates)
            seen.add(sub)
            if len(seen) == len(members):
                break
        assert seen == members


@pytest.mark.slow
def test_no_gene_value_of_any_layer_is_starved():
    """In each layer, every value is drawn at least a twentieth as often as an even share; samples and mutants."""
    found, rng = space(layers=Layers.subset), np.random.default_rng(0)
    samples = [found.sample(rng) for _ in range(2000)]
    mutants = [found.mutate(sub, rng, 0.2, 0.4) for sub in samples]
    for subs in (samples, mutants):
        drawn = Counter()
        for sub in subs:
            for layer, gene in zip(sub.layers, sub.genes, strict=True):
                drawn.update((layer, name, getattr(gene, name)) for name in GENES)
        for layer in range(SMOLLM2_135M.n_layer):
            for name in GENES:
                counts = [drawn[layer, name, value] for value in found.grids[name]]
                assert min(counts) >= sum(counts) / len(counts) / 20, (layer, name, counts)


@pytest.mark.slow
def test_depths_and_widths_that_fit_are_drawn_evenly():
    bin = Bin(405_334_016, 385_067_316, 425_600_716)
    found, rng = space(PYTHIA_6_9B, bin), np.random.default_rng(0)
    ends = [[found.grids[name][end] for name in GENES] for end in (0, -1)]

    def fits(depth, width):
        least, most = (
            parameters(PYTHIA_6_9B, SubNetwork(tuple(range(depth)), width, (LayerGenes(*genes),) * depth))
            for genes in ends
        )
        return least <= bin.high and most >= bin.low

    shapes = [(sub.n_layer, sub.n_embd) for sub in (found.sample(rng) for _ in range(3200))]
    widths = {depth: [width for width in found.grids["n_embd"] if fits(depth, width)] for depth in range(1, 33)}
    expected = dict.fromkeys(widths, 3200 / 32)  # 100 draws a depth, with a standard deviation of 10
    assert expected.keys() == {depth for depth, fitting in widths.items() if fitting}
    drawn = Counter(depth for depth, _ in shapes)
    assert all(abs(drawn[depth] - mean) < 5 * mean**0.5 for depth, mean in expected.items())
    # Where a width stands among those that fit its depth, in quarters: 800 draws each, standard deviation 24.
    places = [(widths[depth].index(width) + rng.random()) / len(widths[depth]) for depth, width in shapes]
    quarters = np.histogram(places, 4, (0, 1))[0]
    assert (abs(quarters - 800) < 5 * 24).all()


# --- mutation and crossover inherit


def test_mutation_without_new_shape_changes_few_genes():
    found, rng = space(), np.random.default_rng(0)
    shares = []
    for _ in range(200):
        parent = found.sample(rng)
        child = found.mutate(parent, rng, 0.1, 0.0)
        assert (child.layers, child.n_embd) == (parent.layers, parent.n_embd)
        pairs = zip(parent.genes, child.genes, strict=True)
        shares.append(np.mean([getattr(old, name) != getattr(new, name) for old, new in pairs for name in GENES]))
    assert np.mean(np.array(shares) > 0) > 0.95  # a shape that barely meets the bin may hold one member alone
    assert np.median(shares) < 0.15


def test_mutation_at_rate_zero_is_the_parent():
    found, rng = space(), np.random.default_rng(0)
    parent = found.sample(rng)
    assert found.mutate(parent, rng, 0.0, 0.0) == parent
    assert all(found.mutate(parent, rng, 0.0, 0.5) != parent for _ in range(50))


def test_the_only_member_is_its_own_mutant_and_child():
    total = parameters(TOY)
    found, rng = Space(TOY, toy_config(), Bin(total, total, total), None), np.random.default_rng(0)
    only = found.sample(rng)
    assert only == whole(TOY)
    assert found.mutate(only, rng, 0.2, 0.4) == found.crossover(only, only, rng) == only


@pytest.mark.parametrize(("granularity", "sharing"), SPACES)
def test_a_child_of_equal_parents_is_that_parent(granularity, sharing):
    found = space(granularity=granularity, sharing=sharing, layers=Layers.subset)
    rng = np.random.default_rng(0)
    for _ in range(20):
        parent = found.sample(rng)
        assert found.crossover(parent, parent, rng) == parent


def test_crossover_mixes_by_teacher_layer():
    """In a bin as wide as the space nothing needs fitting, so that every gene must come from one of the parents."""
    wide = Bin(0, 1, parameters(SMOLLM2_135M))
    found = space(bin=wide, granularity=Granularity.fine, layers=Layers.subset)
    rng = np.random.default_rng(0)
    sources = Counter()
    for _ in range(200):
        a, b = found.sample(rng), found.sample(rng)
        child = found.crossover(a, b, rng)
        assert child.n_layer in (a.n_layer, b.n_layer)
        assert child.n_embd in (a.n_embd, b.n_embd)
        assert child.index_seed in (a.index_seed, b.index_seed)
        assert set(a.layers) & set(b.layers) <= set(child.layers) <= set(a.layers) | set(b.layers)
        parents = [dict(zip(parent.layers, parent.genes, strict=True)) for parent in (a, b)]
        for layer, gene in zip(child.layers, child.genes, strict=True):
            for name in (*GENES, "index_seed"):
                given = [getattr(parent[layer], name) for parent in parents if layer in parent]
                assert getattr(gene, name) in given
                if len(set(given)) == 2:
                    sources[name, given.index(getattr(gene, name))] += 1
    for name in (*GENES, "index_seed"):
        assert 0.4 < sources[name, 0] / (sources[name, 0] + sources[name, 1]) < 0.6


# --- bins between the steps


@pytest.mark.parametrize("sharing", Sharing)
def test_a_step_that_leaves_no_value_in_the_bin_is_named_with_the_nearest_that_does(sharing):
    held = ["n_embd", "n_query_groups", "heads_per_group", "head_size", "n_layer"]
    config = SpaceConfig(sharing=sharing, hold=held, step=Sizes(intermediate_size=700))
    bin = Bin(0, 66_000_000, 66_300_000)
    said = r"bin 66,000,000\.\.66,300,000 .* space\.step\.intermediate_size=(\d+) instead of 700 would reach it\.$"
    with pytest.raises(SprigError, match=said) as error:
        Space(SMOLLM2_135M, config, bin, None)
    nearest = int(re.search(said, str(error.value))[1])
    Space(SMOLLM2_135M, replace(config, step=Sizes(intermediate_size=nearest)), bin, None)
    # One MLP width for all layers: closed form, by steps of 700 // 2, 700 // 3, ...
    if sharing == Sharing.uniform:
        each = 3 * 576 * 30
        empty = parameters(SMOLLM2_135M) - each * 1536
        reaches = (
            step
            for step in (700 // part for part in range(2, 700))
            if any(66_000_000 <= empty + each * width <= 66_300_000 for width in range(step, 1537, step))
        )
        assert nearest == next(reaches)


def test_a_bin_that_no_step_reaches_is_not_blamed_on_one():
    held = ["n_embd", "n_query_groups", "heads_per_group", "head_size", "intermediate_size"]
    with pytest.raises(SprigError, match=r"between 63,713,088 and 67,253,184; .* space\.hold\.$"):
        Space(SMOLLM2_135M, SpaceConfig(hold=held), Bin(0, 66_000_000, 66_300_000), None)
