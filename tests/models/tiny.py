"""Tiny random teachers of every family, with nothing left at zero or one that a mistake could hide behind."""

from collections.abc import Collection
from typing import Any

import pipeline.quick_imports  # noqa: F401  # before litgpt, whose import takes seconds without it

# isort: split
import pytest
import torch
from litgpt import GPT, Config

from pipeline.models.student import build
from pipeline.subnetwork.value import LayerGenes

_COMMON = {"block_size": 32, "n_layer": 3, "vocab_size": 61, "padded_vocab_size": 64}
_LLAMA = _COMMON | {
    "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm",
    "bias": False,
    "parallel_residual": False,
    "rotary_percentage": 1.0,
    "n_head": 6,
    "n_query_groups": 3,
    "intermediate_size": 40,
}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 16}
# Windows shorter than the tokens below, and a base for the layers that have them.
_GEMMA = _LLAMA | {
    "mlp_class_name": "GemmaMLP",
    "gelu_approximate": "tanh",
    "post_attention_norm": True,
    "post_mlp_norm": True,
    "norm_qk": True,
    "scale_embeddings": True,
    "sliding_window_size": 7,
    "sliding_window_indices": [1, 0, 1],
    "rope_local_base_freq": 50.0,
    "rope_indices": [1, 0, 1],
    "rope_base": 1000,
    "n_embd": 48,
    "head_size": 16,
}
_LOCAL = ("norm_qk", "rope_local_base_freq", "rope_indices")
# Caps that scores and logits come near.
_GEMMA2 = {key: value for key, value in _GEMMA.items() if key not in _LOCAL} | {
    "attention_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
_OLMO = {
    "norm_1": False,
    "norm_2": False,
    "post_attention_norm": True,
    "post_mlp_norm": True,
    "norm_qk": True,
    "norm_qk_type": "olmo2",
}
_MIXTURE = _LLAMA | {
    "mlp_class_name": "LLaMAMoE",
    "n_expert": 5,
    "n_expert_per_token": 2,
    "n_embd": 48,
    "head_size": 16,
}
CONFIGS = {
    "gpt_neox": _COMMON | {"name": "neox", "n_embd": 96, "n_head": 3, "rotary_percentage": 0.25},
    "llama": _LLAMA | {"name": "llama", "n_embd": 96, "rope_base": 100000},
    "llama3": _LLAMA | {"name": "llama3", "n_embd": 96, "rope_base": 500, "rope_adjustments": _LLAMA3},
    "biased": _LLAMA | {"name": "biased", "n_embd": 96, "bias": True},
    "qwen2": _LLAMA | {"name": "qwen2", "n_embd": 96, "attn_bias": True, "lm_head_bias": True},
    "qwen3": _LLAMA | {"name": "qwen3", "n_embd": 48, "head_size": 16, "norm_qk": True},
    "gemma2": _GEMMA2 | {"name": "gemma2"},
    "gemma3": _GEMMA | {"name": "gemma3", "rope_adjustments": {"factor": 2.0}},
    "smollm3": _LLAMA | {"name": "smollm3", "n_embd": 96, "rope_indices": [0, 1, 0]},
    "olmo2": _LLAMA | _OLMO | {"name": "olmo2", "n_embd": 48, "head_size": 16},
    "mixtral": _MIXTURE | {"name": "mixtral"},
    "qwen3_moe": _MIXTURE | {"name": "qwen3_moe", "norm_qk": True, "n_expert_per_token": 3},
    "olmoe": _MIXTURE | {"name": "olmoe", "norm_qk": True, "norm_qk_type": "olmo2", "routed_scaling_factor": None},
}
MIXTURES = {"mixtral", "qwen3_moe", "olmoe"}
TIED = {"llama", "llama3", "qwen3", "gemma2", "gemma3", "smollm3"}

# Quick cases prove what these have in addition to the others; their other cases are slow.
LATER = ("gemma2", "olmo2", "smollm3", "qwen3_moe", "olmoe")
FIRST = tuple(family for family in CONFIGS if family not in LATER)


def families(*quick: str, of: Collection[str] = tuple(CONFIGS)) -> list[Any]:
    """Families as parameters of a test, `quick` or slow if they are LATER ones."""
    return [family if family in (*FIRST, *quick) else pytest.param(family, marks=pytest.mark.slow) for family in of]


def config(family: str) -> Config:
    return Config(**CONFIGS[family])


def randomize(model: GPT, seed: int = 0) -> GPT:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            is_norm = ("norm" in name or "ln_f" in name) and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_norm else 0.15 * noise)
    return model.eval()


def teacher(family: str) -> GPT:
    return randomize(build(config(family), None, family in TIED))


def gene(family: str, groups: int, heads: int, head_size: int, neurons: int, experts: int = 4) -> LayerGenes:
    """A layer's sizes; a token passes 2 experts of a mixture."""
    return LayerGenes(groups, heads, head_size, neurons, None, *((experts, 2) if family in MIXTURES else ()))


def mlps(block) -> list[torch.nn.Module]:
    """The experts of a mixture, or the one MLP."""
    return list(block.mlp.experts) if hasattr(block.mlp, "experts") else [block.mlp]


def tokens(rows: int = 2, length: int = 17) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(1))
