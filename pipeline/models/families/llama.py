"""Llama and Mistral, with or without biases."""

from typing import Any

from litgpt import Config

from pipeline.models.families import reading as read
from pipeline.models.families.family import GGUF, Described, Family, Stock


def _llama(plain: dict[str, Any]) -> Described:
    read.refuse_window(plain, None)
    attention, mlp = read.flag(plain, "attention_bias", False), read.flag(plain, "mlp_bias", False)
    config = read.llama_like(plain, None, bias=attention or mlp)
    unbiased = (frozenset() if attention else read.ATTENTION) | (frozenset() if mlp else read.MLP)
    return read.described(plain, config, unbiased if config.bias else frozenset())


def _mistral(plain: dict[str, Any]) -> Described:
    read.refuse_window(plain | {"layer_types": None}, plain.get("sliding_window", 4096))
    return read.described(plain, read.llama_like(plain, 8))


def _keys(config: Config) -> dict[str, Any]:
    return {"attention_bias": config.bias, "mlp_bias": config.bias}


LLAMA = Family(
    name="llama",
    called="Llama",
    parts={"biases": ("none", "all")},
    names=read.LLAMA_NAMES,
    readers={"llama": _llama, "mistral": _mistral},
    stock=Stock("llama", "LlamaForCausalLM", _keys),
    # From 5.9 on, transformers refuses a Llama whose width is not a multiple of its heads, though it has a head size of
    # its own. Mistral without sliding windows is the same model, and is not refused.
    undivided=Stock("mistral", "MistralForCausalLM", lambda config: {"sliding_window": None}),
    gguf={"llama": GGUF(side_by_side=True)},
)
