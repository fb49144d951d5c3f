"""What the four spaces sample, extracted, against the transformer written out entry by entry."""

import copy
from dataclasses import replace

import dense
import numpy as np
import pytest
import tiny
import torch
from covering import grid

from pipeline.config import AttentionScale, Granularity, HeadPairs, Layers, Sharing, SpaceConfig
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.ordering import importance
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import whole


@pytest.mark.proves("exact parameter counts", lambda family: family)
@pytest.mark.proves("all four search spaces", lambda family: family)
@pytest.mark.parametrize(
    ("family", "granularity", "sharing", "pairs"),
    grid(tiny.FIRST, Granularity, Sharing, HeadPairs) + grid(tiny.LATER, Granularity, Sharing, HeadPairs),
)
def test_a_sample_is_the_dense_formula(family, granularity, sharing, pairs):
    teacher = tiny.teacher(family)
    double = copy.deepcopy(teacher).double()
    architecture = architecture_of(teacher.config, is_tied(teacher))
    order = importance(teacher, tiny.tokens(2, 18), "fp32", batch=2, fingerprint="measured")
    total, rng = parameters(architecture), np.random.default_rng(0)
    cut_heads = 0
    for scale in AttentionScale:
        config = SpaceConfig(
            granularity=granularity, sharing=sharing, layers=Layers.subset, head_pairs=pairs, attention_scale=scale
        )
        space = Space(architecture, config, Bin(total // 2, total // 4, total), order)
        samples = [space.sample(rng) for _ in range(2)]
        for subnetwork in (*samples, space.mutate(samples[0], rng, 0.5, 0.5)):
            student = extract(teacher, subnetwork, order)
            assert sum(parameter.numel() for parameter in student.parameters()) == parameters(architecture, subnetwork)
            selection = select(subnetwork, architecture, order)
            passed = [gene.n_expert_per_token for gene in subnetwork.genes]
            expected = dense.logits(
                double, tiny.tokens(), subnetwork.layers, selection, pairs == "plain", scale == "own", passed
            )
            with torch.no_grad():
                torch.testing.assert_close(student(tiny.tokens()).double(), expected, rtol=0, atol=1e-4)
            cut_heads += sum(gene.head_size < architecture.head_size for gene in subnetwork.genes)
    assert cut_heads, "head pairs must take part"


@pytest.mark.parametrize("family", tiny.families())
def test_coarse_plain_heads_are_the_first_rows(family):
    """The paper's library: q and k keep their first entries, whatever pairs that breaks."""
    teacher = tiny.teacher(family)
    architecture = architecture_of(teacher.config, is_tied(teacher))
    half = architecture.head_size // 2
    everything = whole(architecture)
    genes = tuple(replace(gene, head_size=half) for gene in everything.genes)
    sub = replace(everything, genes=genes, head_pairs="plain", attention_scale="own")
    student = extract(teacher, sub, Ordering.identity(architecture))
    rows = teacher.transformer.h[1].attn.qkv.weight.view(-1, architecture.head_size, architecture.n_embd)
    assert torch.equal(student.transformer.h[1].attn.qkv.weight, rows[:, :half].flatten(0, 1))
