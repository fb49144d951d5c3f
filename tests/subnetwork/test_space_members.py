"""What the members of a space carry, and the bins that cannot be reached."""

from dataclasses import replace

import numpy as np
import pytest
from architectures import (
    PYTHIA_6_9B,
    SMOLLM2_135M,
    TOY,
    every_subnetwork,
    space,
    toy_config,
)

from pipeline import compose
from pipeline.config import Granularity, Layers, Sharing
from pipeline.errors import SprigError
from pipeline.subnetwork.bins import Bin, make_bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import whole

# --- depth, seeds, what a sub-network carries


def test_rank_keeps_the_most_influential_layers():
    ordering = replace(
        Ordering.identity(SMOLLM2_135M), fingerprint="measured", layers=np.random.default_rng(5).permutation(30)
    )
    found, rng = space(layers=Layers.rank, ordering=ordering), np.random.default_rng(0)
    for _ in range(50):
        sub = found.mutate(found.sample(rng), rng, 0.2, 1.0)
        assert set(sub.layers) == set(ordering.layers[: sub.n_layer].tolist())
        assert sub.ordering == "measured"
    with pytest.raises(SprigError, match=r"layers=rank needs an ordering"):
        space(layers=Layers.rank)


def test_prefix_keeps_the_first_layers():
    found, rng = space(), np.random.default_rng(0)
    for _ in range(50):
        sub = found.mutate(found.sample(rng), rng, 0.2, 1.0)
        assert sub.layers == tuple(range(sub.n_layer))


@pytest.mark.parametrize("sharing", Sharing)
def test_seeds_of_fine_spaces(sharing):
    rng = np.random.default_rng(0)
    coarse, fine = (space(granularity=granularity, sharing=sharing) for granularity in Granularity)
    assert {gene.index_seed for gene in coarse.sample(rng).genes} == {None}
    sub = fine.sample(rng)
    seeds = {gene.index_seed for gene in sub.genes}
    assert len(seeds) == (1 if sharing == Sharing.uniform else sub.n_layer)
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in {*seeds, sub.index_seed})
    mutants = [fine.mutate(sub, rng, 0.5, 0.0) for _ in range(100)]
    assert 30 < sum(mutant.index_seed != sub.index_seed for mutant in mutants) < 70


def test_contains_refuses_what_is_elsewhere():
    found = space()
    sub = found.sample(np.random.default_rng(3))
    gene = sub.genes[0]
    assert found.contains(sub)
    for other in (
        replace(sub, head_pairs="first"),
        replace(sub, attention_scale="own"),
        replace(sub, ordering="measured"),
        replace(sub, index_seed=1),
        replace(sub, n_embd=sub.n_embd - 1),
        replace(sub, layers=tuple(layer + 1 for layer in sub.layers)),
        replace(sub, genes=(replace(gene, intermediate_size=gene.intermediate_size - 1), *sub.genes[1:])),
        replace(sub, genes=(replace(gene, head_size=66), *sub.genes[1:])),
        whole(SMOLLM2_135M),
    ):
        assert not found.contains(other)
    assert not space(sharing=Sharing.uniform).contains(sub)


def test_the_same_generator_gives_the_same_subnetworks():
    def history(found):
        rng = np.random.default_rng(7)
        subs = [found.sample(rng) for _ in range(5)]
        return [*subs, found.mutate(subs[0], rng, 0.2, 0.4), found.crossover(*subs[1:3], rng)]

    used = space()
    used.sample(np.random.default_rng(1))
    assert history(used) == history(space())


# --- bins that cannot be reached


def test_a_bin_out_of_reach_says_what_is_in_reach():
    tiny = replace(SMOLLM2_135M, name="tiny", n_layer=2)
    with pytest.raises(
        SprigError, match=r"bin 385,067,316\.\.425,600,716 cannot be reached from teacher tiny"
    ) as error:
        space(tiny, Bin(405_334_016, 385_067_316, 425_600_716))
    least, most = space(tiny, Bin(0, 1, 10**9)).reach()
    assert f"({parameters(tiny):,})" in str(error.value)
    assert f"it reaches {least:,}..{most:,}" in str(error.value)
    assert most == parameters(tiny)


def test_reach_is_exact():
    counts = [parameters(TOY, sub) for sub in every_subnetwork(toy_config())]
    assert Space(TOY, toy_config(), Bin(0, 1, 10**6), None).reach() == (min(counts), max(counts))


@pytest.mark.parametrize("sharing", Sharing)
def test_a_bin_between_the_steps_says_so(sharing):
    counts = {parameters(TOY, sub) for sub in every_subnetwork(toy_config(sharing=sharing))}
    gap = next(number for number in range(min(counts), max(counts)) if number not in counts)
    with pytest.raises(SprigError, match=r"nothing was found between"):
        Space(TOY, toy_config(sharing=sharing), Bin(gap, gap, gap), None)


@pytest.mark.parametrize(
    ("overrides", "layers"),
    [
        ([], Layers.rank),
        (["space=coarse-uniform"], Layers.rank),
        (["ordering=none", "search=uniform"], Layers.prefix),
        (["space.layers=subset"], Layers.subset),
        (["space=fine-layerwise", "search=evolution"], Layers.subset),
        (["experiment=paper/p0-initialisation", "hydra.mode=RUN"], Layers.prefix),
    ],
)
def test_a_coarse_space_keeps_layers_as_it_keeps_entries(overrides, layers):
    assert compose([*overrides, "distill.tokens=100_000"]).space.layers == layers


@pytest.mark.parametrize("name", ["coarse-uniform", "coarse-layerwise", "fine-uniform", "fine-layerwise"])
def test_shipped_bins_and_spaces_fit_their_teachers(name):
    overrides = [f"space={name}", "ordering=none", "search=evolution", "distill.tokens=100_000"]
    for teacher, bin in (
        (SMOLLM2_135M, "smollm2-half"),
        (PYTHIA_6_9B, "pythia-410m"),
        (PYTHIA_6_9B, "pythia-1b"),
        (PYTHIA_6_9B, "pythia-2.8b"),
    ):
        config = compose([*overrides, f"bin={bin}"])
        assert name == f"{config.space.granularity}-{config.space.sharing}"
        found = Space(teacher, config.space, make_bin(config.bin), None)
        assert found.contains(found.sample(np.random.default_rng(0)))
