"""Qwen2.5, with biases of q, k and v, and Qwen3, with norms of q and k."""

import reprlib
from typing import Any

from pipeline.errors import SprigError
from pipeline.models.families import reading as read
from pipeline.models.families.family import GGUF, Described, Family, Stock

_FULL = {"use_sliding_window": False}


def refuse_windows(plain: dict[str, Any]) -> None:
    window = plain.get("sliding_window", 4096) if read.flag(plain, "use_sliding_window", False) else None
    first = plain.get("max_window_layers", 28)
    if type(first) is not int:
        raise SprigError(f"max_window_layers={reprlib.repr(first)} is not a whole number")
    read.refuse_window(plain, window, lambda layer: layer >= first)


def _qwen2(plain: dict[str, Any]) -> Described:
    refuse_windows(plain)
    return read.described(plain, read.llama_like(plain, 32, attn_bias=True))


def _qwen3(plain: dict[str, Any]) -> Described:
    refuse_windows(plain)
    if read.flag(plain, "attention_bias", False):
        raise SprigError("attention_bias=True is not supported with q and k norms: use another model")
    return read.described(plain, read.llama_like(plain, 32, norm_qk=True, head_size=plain.get("head_dim", 128)))


QWEN2 = Family(
    name="qwen2",
    called="Qwen2.5",
    parts={"biases": ("attention",)},
    names=read.LLAMA_NAMES,
    readers={"qwen2": _qwen2},
    stock=Stock("qwen2", "Qwen2ForCausalLM", lambda config: _FULL),  # q, k and v always have a bias
    gguf={"qwen2": GGUF({"attn_bias": True})},
)
QWEN3 = Family(
    name="qwen3",
    called="Qwen3",
    parts={"qk norm": (True,)},
    names=read.LLAMA_NAMES,
    readers={"qwen3": _qwen3},
    stock=Stock("qwen3", "Qwen3ForCausalLM", lambda config: {"attention_bias": False} | _FULL),
    gguf={"qwen3": GGUF({"norm_qk": True})},
)
