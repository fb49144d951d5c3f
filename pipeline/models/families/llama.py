"""Llama and Mistral, with or without biases, and Phi-3, which is a Llama whose files keep weights together."""

from dataclasses import replace
from typing import Any

from litgpt import Config

from pipeline.models.families import reading as read
from pipeline.models.families.family import GGUF, Described, Family, Parts, Stock


def _llama(plain: dict[str, Any]) -> Described:
    read.refuse_window(plain, None)
    attention, mlp = read.flag(plain, "attention_bias", False), read.flag(plain, "mlp_bias", False)
    config = read.llama_like(plain, None, bias=attention or mlp)
    unbiased = (frozenset() if attention else read.ATTENTION) | (frozenset() if mlp else read.MLP)
    return read.described(plain, config, unbiased if config.bias else frozenset())


def _mistral(plain: dict[str, Any]) -> Described:
    read.refuse_window(plain | {"layer_types": None}, plain.get("sliding_window", 4096))
    return read.described(plain, read.llama_like(plain, 8))


_PHI3 = {"qkv": "self_attn.qkv_proj", "gate_up": "mlp.gate_up_proj"}


def _phi3(plain: dict[str, Any]) -> Described:
    read.refuse_window(plain | {"layer_types": None}, plain.get("sliding_window"))
    config = read.llama_like(plain, None, norm_eps=plain.get("rms_norm_eps", 1e-5))
    names = replace(read.LLAMA_NAMES, parts=read.LLAMA_NAMES.parts | _PHI3)
    return replace(read.described(plain, config), names=names, unfuse=_apart)


def _apart(parts: Parts, config: Config) -> Parts:
    """All of q, then k, then v; and the gate before what it gates."""
    rows = config.head_size * config.n_query_groups
    fused = {
        "qkv.weight": ("qkv", [config.head_size * config.n_head, rows, rows]),
        "gate_up.weight": (("gate", "up"), [config.intermediate_size] * 2),
    }
    apart = {name: tensor for name, tensor in parts.items() if name not in fused}
    for name, (names, sizes) in fused.items():
        if name in parts:
            split = parts[name].split(sizes)
            apart |= {f"{part}.weight": each for part, each in zip(names, split, strict=True)}
    return apart


def _keys(config: Config) -> dict[str, Any]:
    return {"attention_bias": config.bias, "mlp_bias": config.bias}


LLAMA = Family(
    name="llama",
    called="Llama",
    parts={"biases": ("none", "all")},
    names=read.LLAMA_NAMES,
    readers={"llama": _llama, "mistral": _mistral, "phi3": _phi3},
    stock=Stock("llama", "LlamaForCausalLM", _keys),
    # From 5.9 on, transformers refuses a Llama whose width is not a multiple of its heads, though it has a head size of
    # its own. Mistral without sliding windows is the same model, and is not refused.
    undivided=Stock("mistral", "MistralForCausalLM", lambda config: {"sliding_window": None}),
    gguf={"llama": GGUF(side_by_side=True)},
)
