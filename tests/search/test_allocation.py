"""The allocation against every member of small spaces, looked at one by one."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from architectures import PYTHIA_6_9B
from toy import TEACHER

from pipeline.config import BinConfig, Count, Exportable, Granularity, Layers, Sharing, Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.allocation import Errors, allocate
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.fitting import Draft
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import GENES

RANKED = replace(Ordering.identity(TEACHER), fingerprint="ranked", layers=np.array([3, 0, 2, 1]))
NEOX = replace(
    PYTHIA_6_9B,
    n_layer=3,
    n_embd=32,
    n_head=4,
    n_query_groups=4,
    head_size=8,
    intermediate_size=64,
    vocab_size=60,
    padded_vocab_size=64,
)
HELD = ["n_embd", "head_size"]


def random_errors(a, seed=0):
    """Falling with every width, as nested cuts' errors do, and 0 for what is whole."""
    rng = np.random.default_rng(seed)

    def falling(*shape):
        errors = rng.random(shape)
        for axis in range(1, len(shape)):
            errors = np.flip(np.flip(errors, axis).cumsum(axis), axis)
        return errors - errors[(slice(None), *[slice(-1, None)] * (len(shape) - 1))]

    attention = falling(a.n_layer, a.n_query_groups + 1, a.heads_per_group + 1)
    return Errors(attention, falling(a.n_layer, a.intermediate_size + 1) / 8, 4 * rng.random(a.n_layer))


def cost(sub, errors):
    kept = zip(sub.layers, sub.genes, strict=True)
    dropped = set(range(len(errors.dropped))) - set(sub.layers)
    return sum(errors.dropped[layer] for layer in dropped) + sum(
        errors.attention[layer, gene.n_query_groups, gene.heads_per_group] + errors.mlp[layer, gene.intermediate_size]
        for layer, gene in kept
    )


def members(space):
    """All of a space, by trying every combination of its grids."""
    every = list(product(*(space.grids[name] for name in GENES)))
    for depth in space.grids["n_layer"]:
        anywhere = combinations(range(space.architecture.n_layer), depth)
        for layers in anywhere if space.config.layers == Layers.subset else [space.layers_of(depth)]:
            for rows in product(every, repeat=1 if space.uniform else depth):
                draft = Draft([*layers], space.architecture.n_embd, [[*row] for row in rows], [None] * len(rows), None)
                if space.fitter.fits(draft) and space.contains(sub := space.freeze(draft)):
                    yield sub


def space_of(teacher=TEACHER, low=12_000, high=14_000, count=Count.total, **config):
    standard = {"hold": HELD, "layers": Layers.rank, "step": Sizes(intermediate_size=32, heads_per_group=1)}
    bin = make_bin(BinConfig(low=low, high=high, count=count))
    ordering = replace(RANKED, layers=RANKED.layers[RANKED.layers < teacher.n_layer])
    return Space(teacher, SpaceConfig(**standard | config), bin, ordering, length=16)


SPACES = {
    "rank": {},
    "prefix": {"layers": Layers.prefix},
    "subset": {"layers": Layers.subset},
    "coarse depths": {
        "layers": Layers.subset,
        "step": Sizes(n_layer=2, intermediate_size=16),
        "hold": [*HELD, "heads_per_group", "n_query_groups"],
    },
    "a narrow bin": {"low": 12_700, "high": 13_000},
    "limits": {"max_flops_per_token": 29_000, "max_kv_bytes_per_token": 256},
    "uniform": {"sharing": Sharing.uniform, "step": Sizes(intermediate_size=4), "low": 10_000},
    "uniform subset": {"sharing": Sharing.uniform, "layers": Layers.subset, "step": Sizes(intermediate_size=4)},
    "exported": {
        "sharing": Sharing.uniform,
        "exportable": Exportable.stock,
        "count": Count.exported,
        "step": Sizes(intermediate_size=4),
    },
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", range(2))
def test_no_member_of_the_space_has_less_error(name, seed):
    space = space_of(**SPACES[name])
    errors = random_errors(space.architecture, seed)
    found, every = allocate(space, errors), list(members(space))
    assert space.contains(found) and len(every) > 1
    assert cost(found, errors) == pytest.approx(min(cost(sub, errors) for sub in every), abs=1e-9)


def test_stock_gpt_neox_keeps_the_heads_that_share_out_its_width():
    low, high = 14_000, 38_000
    space = space_of(NEOX, low, high, sharing=Sharing.uniform, exportable=Exportable.stock, layers=Layers.prefix)
    errors = random_errors(NEOX)
    assert cost(allocate(space, errors), errors) == pytest.approx(min(cost(sub, errors) for sub in members(space)))


def test_cuts_that_the_errors_do_not_know_are_refused():
    for config, says in (
        ({"granularity": Granularity.fine}, "needs space.granularity=coarse"),
        ({"hold": ["n_embd"]}, "head_size=2..8: add head_size to space.hold"),
        ({"hold": ["head_size"], "step": Sizes(n_embd=8)}, "n_embd=8..32: add n_embd to space.hold"),
    ):
        space = space_of(**config)
        with pytest.raises(SprigError, match=says):
            allocate(space, random_errors(TEACHER))
