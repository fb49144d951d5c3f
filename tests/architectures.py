"""Architectures and spaces that tests share, and members of a toy space listed one by one."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from pipeline.config import Granularity, Layers, Sharing, Sizes, SpaceConfig
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import LayerGenes, SubNetwork

PYTHIA_6_9B = Architecture(
    name="pythia-6.9b",
    family="gpt_neox",
    n_layer=32,
    n_embd=4096,
    n_head=32,
    n_query_groups=32,
    head_size=128,
    intermediate_size=16384,
    vocab_size=50277,
    padded_vocab_size=50432,
    context=2048,
    tied=False,
    bias=True,
    attention_bias=True,
    lm_head_bias=False,
    layer_norm=True,
    gated_mlp=False,
    qk_norm=False,
    rotary_percentage=0.25,
    rope_base=10000,
    parallel_residual=True,
)
SMOLLM2_135M = Architecture(
    name="smollm2-135m",
    family="llama",
    n_layer=30,
    n_embd=576,
    n_head=9,
    n_query_groups=3,
    head_size=64,
    intermediate_size=1536,
    vocab_size=49152,
    padded_vocab_size=49152,
    context=8192,
    tied=True,
    bias=False,
    attention_bias=False,
    lm_head_bias=False,
    layer_norm=False,
    gated_mlp=True,
    qk_norm=False,
    rotary_percentage=1.0,
    rope_base=100000,
)
# Small enough to list: 2 x 2 query groups and heads, head sizes 2 and 4, MLP widths 3 and 6, embedding widths 4 and 8.
TOY = Architecture(
    name="toy",
    family="qwen3",
    n_layer=3,
    n_embd=8,
    n_head=4,
    n_query_groups=2,
    head_size=4,
    intermediate_size=6,
    vocab_size=11,
    padded_vocab_size=12,
    context=16,
    tied=False,
    bias=False,
    attention_bias=False,
    lm_head_bias=False,
    layer_norm=False,
    gated_mlp=True,
    qk_norm=True,
    rotary_percentage=1.0,
    rope_base=10000,
)
TOY_STEPS = {"n_embd": 4, "intermediate_size": 3}
SPACES = [(granularity, sharing) for granularity in Granularity for sharing in Sharing]
HALF = Bin(67_257_504, 63_894_629, 70_620_379)


def space(teacher=SMOLLM2_135M, bin=HALF, ordering=None, **config) -> Space:
    return Space(teacher, SpaceConfig(**config), bin, ordering)


def toy_config(**config) -> SpaceConfig:
    return SpaceConfig(step=Sizes(**TOY_STEPS), **config)


def every_subnetwork(config: SpaceConfig) -> Iterator[SubNetwork]:
    """All coarse sub-networks of TOY, whatever their count, for layers=prefix and layers=subset."""
    rows = [LayerGenes(*sizes) for sizes in product((1, 2), (1, 2), (2, 4), (3, 6))]
    for depth in (1, 2, 3):
        kept = combinations(range(3), depth) if config.layers == Layers.subset else [tuple(range(depth))]
        uniform = config.sharing == Sharing.uniform
        genes = [(row,) * depth for row in rows] if uniform else list(product(rows, repeat=depth))
        for layers, n_embd, chosen in product(kept, (4, 8), genes):
            yield SubNetwork(layers, n_embd, chosen, str(config.head_pairs), str(config.attention_scale))


def sizes(sub: SubNetwork) -> tuple:
    """What a fine sub-network is without its seeds."""
    return sub.layers, sub.n_embd, tuple(gene.sizes for gene in sub.genes)


def assert_reached(found: Space, members: set[tuple], most: int) -> None:
    """Samples of the space, and a walk of mutations, come upon all `members` (see sizes) and nothing else."""
    rng = np.random.default_rng(0)
    sub = found.sample(rng)
    for step in (lambda _: found.sample(rng), lambda sub: found.mutate(sub, rng, 0.2, 0.4)):
        seen = Counter()
        while len(seen) < len(members) and seen.total() < most:
            sub = step(sub)
            seen[sizes(sub)] += 1
        assert set(seen) == members
