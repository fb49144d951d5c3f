"""Small steps stay in the bin, keep layers and width, and reach what they should."""

import numpy as np
import pytest
from architectures import SMOLLM2_135M, TOY, TOY_STEPS, every_subnetwork

from pipeline.config import BinConfig, Granularity, Sharing, Sizes, SpaceConfig
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.neighbours import neighbour, swap
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import GENES

SPACES = [SpaceConfig(granularity=granularity, sharing=sharing) for granularity in Granularity for sharing in Sharing]
HALF = make_bin(BinConfig(center=67_257_504, tolerance=0.05))
STEPS = {"neighbour": neighbour, "swap": lambda *arguments: swap(*arguments, most=1)}


def changes(a, b) -> list[tuple[int, str]]:
    """Genes (row, name) that grew or shrank; for uniform spaces in their one row."""
    genes = zip(a.genes[:1], b.genes[:1], strict=True) if a.uniform else zip(a.genes, b.genes, strict=True)
    return [(row, name) for row, (x, y) in enumerate(genes) for name in GENES if getattr(x, name) != getattr(y, name)]


@pytest.mark.parametrize("config", SPACES, ids=str)
@pytest.mark.parametrize("kind", STEPS)
def test_a_step_stays_in_the_bin_and_changes_at_most_two_genes(config, kind):
    space, rng = Space(SMOLLM2_135M, config, HALF, None), np.random.default_rng(0)
    moved = 0
    for _ in range(100):
        parent = space.sample(rng)
        child = STEPS[kind](space, parent, rng)
        assert space.contains(child)
        assert (child.layers, child.n_embd, child.index_seed) == (parent.layers, parent.n_embd, parent.index_seed)
        assert [gene.index_seed for gene in child.genes] == [gene.index_seed for gene in parent.genes]
        assert len(changes(parent, child)) in ((0, 1, 2) if kind == "neighbour" else (0, 2))
        moved += child != parent
    assert moved > 80


def test_a_swap_is_neutral_to_the_budget():
    """The count changes by far less than the gene that grew added: within half an MLP step or a head's."""
    space, rng = Space(SMOLLM2_135M, SPACES[1], HALF, None), np.random.default_rng(0)
    drift = []
    for _ in range(200):
        parent = space.sample(rng)
        child = swap(space, parent, rng, most=1)
        drift.append(abs(parameters(SMOLLM2_135M, child) - parameters(SMOLLM2_135M, parent)))
    assert np.median(drift) < 0.001 * HALF.center


def test_more_swaps_change_more_genes():
    space, rng = Space(SMOLLM2_135M, SPACES[1], HALF, None), np.random.default_rng(0)
    parent = space.sample(rng)
    changed = {most: [len(changes(parent, swap(space, parent, rng, most))) for _ in range(200)] for most in (1, 4)}
    assert np.mean(changed[4]) > 1.5 * np.mean(changed[1])
    assert max(changed[4]) > 4


def test_neighbours_reach_every_member_of_the_same_layers_and_width():
    config = SpaceConfig(sharing=Sharing.layerwise, step=Sizes(**TOY_STEPS))
    space, rng = Space(TOY, config, make_bin(BinConfig(low=600, high=800)), None), np.random.default_rng(0)
    wide = (sub for sub in every_subnetwork(config) if (sub.n_layer, sub.n_embd) == (2, 8))
    members = [sub for sub in wide if space.contains(sub)]
    assert len(members) > 100
    here = members[0]
    reached = {here}
    for _ in range(50 * len(members)):
        here = neighbour(space, here, rng)
        reached.add(here)
    assert reached == set(members)


def test_where_no_step_is_left_the_parent_comes_back():
    config = SpaceConfig(hold=list(GENES))
    space, rng = Space(TOY, config, make_bin(BinConfig(low=1, high=10**6)), None), np.random.default_rng(0)
    parent = space.sample(rng)
    assert neighbour(space, parent, rng) == swap(space, parent, rng, most=3) == parent
