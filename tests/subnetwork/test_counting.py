"""Counts against litgpt models built on the meta device, published numbers, and torch's own FLOP counter."""

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
import torch
from architectures import PYTHIA_6_9B
from covering import slow
from hypothesis import given, settings, strategies
from litgpt import GPT, Config
from litgpt.model import Block
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import Granularity, Layers, Sharing, SpaceConfig
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.bins import Bin
from pipeline.subnetwork.counting import flops_per_token, kv_bytes_per_token, layer_parameters, parameters
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork, whole

TEACHERS = {  # litgpt name: family, tied
    "pythia-14m": ("gpt_neox", False),
    "pythia-410m": ("gpt_neox", False),
    "SmolLM2-135M-Instruct": ("llama", True),
    "TinyLlama-1.1B-Chat-v1.0": ("llama", False),
    "Qwen2.5-0.5B": ("qwen2", True),
    "Qwen3-0.6B": ("qwen3", True),
    "Gemma-2-2b": ("gemma2", True),
    "Gemma-3-1b-it": ("gemma3", True),
    "OLMo-2-1124-7B": ("olmo2", False),
    "Mixtral-8x7B-v0.1": ("mixtral", False),
}
# layers, width, heads, head size, MLP width, padded vocabulary; non-embedding and total parameters as published.
PYTHIAS = {
    "14m": (6, 128, 4, 32, 512, 50304, 1_189_888, 14_067_712),
    "70m": (6, 512, 8, 64, 2048, 50304, 18_915_328, 70_426_624),
    "160m": (12, 768, 12, 64, 3072, 50304, 85_056_000, 162_322_944),
    "410m": (24, 1024, 16, 64, 4096, 50304, 302_311_424, 405_334_016),
    "1b": (16, 2048, 8, 256, 8192, 50304, 805_736_448, 1_011_781_632),
    "2.8b": (32, 2560, 32, 80, 10240, 50304, 2_517_652_480, 2_775_208_960),
    "6.9b": (32, 4096, 32, 128, 16384, 50432, 6_444_163_072, 6_857_302_016),
    "12b": (36, 5120, 40, 128, 20480, 50688, 11_327_027_200, 11_846_072_320),
}


FREE_LAYERS = (Layers.prefix, Layers.subset)  # `rank` needs an ordering
GIVEN = {
    "seed": strategies.integers(0, 2**32 - 1),
    "tied": strategies.booleans(),
    "layers": strategies.sampled_from(FREE_LAYERS),
}


def architecture(name: str, tied: bool | None = None) -> Architecture:
    family, usually_tied = TEACHERS[name]
    config = Config.from_name(name)
    return Architecture(
        name=name,
        family=family,
        n_layer=config.n_layer,
        n_embd=config.n_embd,
        n_head=config.n_head,
        n_query_groups=config.n_query_groups,
        head_size=config.head_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        padded_vocab_size=config.padded_vocab_size,
        context=config.block_size,
        tied=usually_tied if tied is None else tied,
        bias=config.bias,
        attention_bias=config.attn_bias or config.bias,
        lm_head_bias=config.lm_head_bias,
        layer_norm=config.norm_class_name == "LayerNorm",
        gated_mlp=config.mlp_class_name != "GptNeoxMLP",
        qk_norm=config.norm_qk,
        rotary_percentage=config.rotary_percentage,
        rope_base=config.rope_base,
        rope_adjusted=config.rope_local_base_freq is not None,
        norms_before=config.norm_1,
        norms_after=config.post_mlp_norm,
        qk_norm_over_heads=config.norm_qk_type == "olmo2",
        n_expert=config.n_expert,
        n_expert_per_token=config.n_expert_per_token,
    )


def build(name: str, sub: SubNetwork, tied: bool) -> GPT:
    """A litgpt model on the meta device, layer by layer, with no help from Sprig's own student."""

    def config(gene) -> Config:
        return Config.from_name(
            name,
            n_layer=1,
            n_embd=sub.n_embd,
            n_head=gene.n_query_groups * gene.heads_per_group,
            n_query_groups=gene.n_query_groups,
            head_size=gene.head_size,
            intermediate_size=gene.intermediate_size,
            n_expert=gene.n_expert or 0,
            n_expert_per_token=gene.n_expert_per_token or 0,
        )

    with torch.device("meta"):
        model = GPT(config(sub.genes[0]))
        model.transformer.h = torch.nn.ModuleList(Block(config(gene), 0) for gene in sub.genes)
    if tied:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def built_counts(model: GPT) -> tuple[int, int]:
    """Total and non-embedding parameters; `parameters()` yields a tied weight once."""
    outer = {id(parameter) for parameter in [*model.transformer.wte.parameters(), *model.lm_head.parameters()]}
    tensors = list(model.parameters())
    return sum(t.numel() for t in tensors), sum(t.numel() for t in tensors if id(t) not in outer)


@pytest.mark.parametrize("name", PYTHIAS)
def test_published_pythias(name):
    layers, width, heads, head_size, intermediate, vocabulary, non_embedding, total = PYTHIAS[name]
    pythia = Architecture(
        **PYTHIA_6_9B.to_dict()
        | {
            "n_layer": layers,
            "n_embd": width,
            "n_head": heads,
            "n_query_groups": heads,
            "head_size": head_size,
            "intermediate_size": intermediate,
            "padded_vocab_size": vocabulary,
        }
    )
    assert parameters(pythia) == total
    assert parameters(pythia, count="non_embedding") == non_embedding


@pytest.mark.proves("exact parameter counts", lambda name: TEACHERS[name][0])
@pytest.mark.parametrize(("granularity", "sharing"), [(a, b) for a in Granularity for b in Sharing])
@pytest.mark.parametrize("name", [*(each for each in TEACHERS if each != "Gemma-2-2b"), *slow([["Gemma-2-2b"]])])
@settings(max_examples=1, derandomize=True, database=None, deadline=None)
@given(**GIVEN)
def test_random_subnetworks_count_as_built(name, granularity, sharing, seed, tied, layers):
    """Every family and space, tied and untied."""
    assert_counted(name, granularity, sharing, seed, tied, layers)


@pytest.mark.slow
@pytest.mark.parametrize(("granularity", "sharing"), [(a, b) for a in Granularity for b in Sharing])
@pytest.mark.parametrize("name", TEACHERS)
@settings(max_examples=18, derandomize=True, database=None, deadline=None)
@given(**GIVEN)
def test_hundreds_of_random_subnetworks_count_as_built(name, granularity, sharing, seed, tied, layers):
    assert_counted(name, granularity, sharing, seed, tied, layers)


def assert_counted(name, granularity, sharing, seed, tied, layers):
    teacher = architecture(name, tied)
    space = whole_space(name, granularity, sharing, tied, layers)
    sub = space.sample(np.random.default_rng(seed))
    counted = parameters(teacher, sub), parameters(teacher, sub, "non_embedding")
    assert counted == built_counts(build(name, sub, tied))


@lru_cache
def whole_space(name: str, granularity: Granularity, sharing: Sharing, tied: bool, layers: Layers) -> Space:
    """A space in a bin that leaves nothing out."""
    teacher = architecture(name, tied)
    config = SpaceConfig(granularity=granularity, sharing=sharing, layers=layers)
    return Space(teacher, config, Bin(0, 1, parameters(teacher)), None)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_is_its_whole_subnetwork(name):
    teacher = architecture(name)
    assert parameters(teacher) == built_counts(build(name, whole(teacher), teacher.tied))[0]
    assert parameters(teacher) == parameters(teacher, whole(teacher))


def test_arrays_count_like_numbers():
    heads, widths = np.arange(1, 33), np.array([[512], [4096]])
    counted = layer_parameters(PYTHIA_6_9B, widths, heads, 1, 128, 1024)
    assert counted.tolist() == [
        [layer_parameters(PYTHIA_6_9B, width, head, 1, 128, 1024) for head in range(1, 33)] for width in (512, 4096)
    ]


@pytest.mark.parametrize("name", ["pythia-14m", "SmolLM2-135M-Instruct", "Qwen2.5-0.5B", "Qwen3-0.6B"])
def test_flops_equal_torchs_counter(name):
    """torch counts attention in full: its half is what a causal mask leaves."""
    teacher, length = architecture(name), 16
    rng = np.random.default_rng(1)
    space = Space(teacher, SpaceConfig(layers=Layers.subset), Bin(0, 1, parameters(teacher)), None)
    for sub in [whole(teacher), space.sample(rng)]:
        matrices = attention = 0
        for gene, times in Counter(sub.genes).items():
            model = build(name, SubNetwork((0,), sub.n_embd, (gene,)), teacher.tied)
            with FlopCounterMode(display=False) as counter, torch.device("meta"):
                model.transformer.h[0](
                    torch.empty(1, length, sub.n_embd),
                    torch.empty(1, length, model.config.rope_n_elem),
                    torch.empty(1, length, model.config.rope_n_elem),
                )
            for operation, flops in counter.get_flop_counts()["Global"].items():
                if "attention" in str(operation) or "bmm" in str(operation):
                    attention += times * flops
                else:
                    matrices += times * flops
        head = 2 * length * teacher.padded_vocab_size * sub.n_embd
        assert attention > 0
        assert length * flops_per_token(teacher, sub, length=length) == matrices + head + attention / 2


@pytest.mark.parametrize("name", ["pythia-14m", "SmolLM2-135M-Instruct", "Qwen3-0.6B"])
def test_the_cache_holds_as_many_bytes_as_litgpt_allocates(name):
    teacher, length = architecture(name), 8
    space = Space(teacher, SpaceConfig(layers=Layers.subset), Bin(0, 1, parameters(teacher)), None)
    for sub in [whole(teacher), space.sample(np.random.default_rng(2))]:
        allocated = 0
        for gene in sub.genes:
            model = build(name, SubNetwork((0,), sub.n_embd, (gene,)), teacher.tied)
            model.max_seq_length = length
            model.set_kv_cache(batch_size=1, dtype=torch.bfloat16)
            cache = model.transformer.h[0].attn.kv_cache
            allocated += cache.k.nbytes + cache.v.nbytes
        assert allocated == length * kv_bytes_per_token(teacher, sub)
