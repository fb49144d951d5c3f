"""The model families that Sprig can cut: valid litgpt configurations, their description as an Architecture, and the
weight names of their transformers classes. To add a family, see docs/extend.md."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from litgpt import GPT, Config

from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture

# Generous upper bounds of litgpt's fields. A larger value is a mistake, and would only fail later, out of memory.
_WHOLE = {
    "block_size": 2**22,
    "n_layer": 2**12,
    "n_embd": 2**20,
    "n_head": 2**16,
    "n_query_groups": 2**16,
    "head_size": 2**16,
    "intermediate_size": 2**24,
    "vocab_size": 2**24,
    "padded_vocab_size": 2**24,
    "padding_multiple": 2**24,
}
_OPTIONAL = ("n_query_groups", "head_size", "intermediate_size", "padded_vocab_size")  # litgpt fills in None
_REAL = {  # greater than the first bound, at most the second
    "norm_eps": (0.0, 1.0),
    "rope_base": (0.0, 1e15),
    "rope_condense_ratio": (0.0, 1e9),
    "rotary_percentage": (0.0, 1.0),
}
_DEFAULTS = {field.name: field.default for field in fields(Config)}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len")

# What extraction, counting and export do not cover. litgpt switches some of these on by the model's name alone.
_UNSUPPORTED = {
    "a mixture of experts": lambda c: c.n_expert > 0 or c.mlp_class_name == "LLaMAMoE",
    "latent attention": lambda c: c.latent_attention is not None,
    "sliding window attention": lambda c: c.sliding_window_size is not None,
    "an attention norm shared with the MLP": lambda c: c.shared_attention_norm,
    "norms after attention or MLP": lambda c: c.post_attention_norm or c.post_mlp_norm,
    "blocks without norms": lambda c: not (c.norm_1 and c.norm_2),
    "scaled embeddings": lambda c: c.scale_embeddings,
    "soft-capped logits": lambda c: c.final_logit_softcapping is not None or c.attention_logit_softcapping is not None,
    "an attention scale of its own": lambda c: c.attention_scores_scalar is not None,
    "q and k norms over all heads": lambda c: c.norm_qk and c.norm_qk_type != "default",
    "interleaved rotary entries": lambda c: c.rope_interleave,
    "local rotary frequencies": lambda c: c.rope_local_base_freq is not None or c.rope_indices is not None,
    "YaRN rotary scaling": lambda c: "beta_fast" in (c.rope_adjustments or {}),
    "Gemma's or OLMo's norms": lambda c: "Gemma" in c.name or "OLMo" in c.name,
}


@dataclass(frozen=True)
class Names:
    """The weight names of a transformers class: the prefix of its body, the modules around the layers, and the module
    of each part of a layer (parts as in pipeline.models.blocks)."""

    body: str
    embedding: str
    norm: str
    head: str
    parts: dict[str, str]


NEOX_NAMES = Names(
    "gpt_neox",
    "embed_in",
    "final_layer_norm",
    "embed_out",
    {
        "qkv": "attention.query_key_value",
        "out": "attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
)
LLAMA_NAMES = Names(
    "model",
    "embed_tokens",
    "norm",
    "lm_head",
    {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "out": "self_attn.o_proj",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
)
NEOX_FIELDS = {"norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP", "bias": True}
LLAMA_FIELDS = {
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "bias": False,
    "parallel_residual": False,
    "rotary_percentage": 1.0,
}


def checked(given: dict[str, Any], called: Callable[[str], str] = str) -> Config:
    """The litgpt configuration with these fields, after checking their types, their ranges and that they agree.

    `called` translates a field's name into the source's own, for errors. A float is not accepted as a whole number.

    Raises:
        SprigError: what is wrong. The caller adds the file and the fix.
    """
    for name, value in given.items():
        if name not in _DEFAULTS:
            raise SprigError(f"{reprlib.repr(name)} is not a field of litgpt's configuration")
        if wrong := _wrong(name, value):
            raise SprigError(f"{called(name)}={reprlib.repr(value)} {wrong}")
    heads, groups, width = (given.get(name) for name in ("n_head", "n_query_groups", "n_embd"))
    if heads and groups and heads % groups:
        raise SprigError(f"{called('n_head')}={heads} is not a multiple of {called('n_query_groups')}={groups}")
    if heads and width and given.get("head_size") is None and width % heads:
        raise SprigError(f"{called('n_embd')}={width} is not a multiple of {called('n_head')}={heads}")
    try:
        config = Config(**given)
    except (AssertionError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SprigError(f"litgpt does not accept it ({str(error) or type(error).__name__})") from None
    if config.rope_n_elem < 2 or config.rope_n_elem % 2:
        raise SprigError(
            f"{called('rotary_percentage')}={config.rotary_percentage} and a head size of {config.head_size} rotate "
            f"{config.rope_n_elem} entries of a head, which is not a positive even number"
        )
    return config


def _wrong(name: str, value: Any) -> str | None:
    """Why a field of litgpt's configuration cannot have this value."""
    default = _DEFAULTS[name]
    if name in _WHOLE and not (value is None and name in _OPTIONAL):
        right = type(value) is int and 1 <= value <= _WHOLE[name]
        return None if right else f"is not a whole number from 1 to {_WHOLE[name]:,}"
    if name in _REAL:
        least, most = _REAL[name]
        right = type(value) in (int, float) and least < value <= most
        return None if right else f"is not a number above {least:g} and at most {most:g}"
    if name == "rope_adjustments":
        return _wrong_adjustments(value)
    if name == "gelu_approximate":
        return None if value in ("none", "tanh") else "is not none or tanh"
    for kind, called in ((bool, "true or false"), (int, "a whole number"), (str, "a text")):
        if type(default) is kind and type(value) is not kind:
            return f"is not {called}"
    return None


def _wrong_adjustments(given: Any) -> str | None:
    """Why these rotary adjustments are refused: of litgpt's, extraction and export support only Llama 3.1's."""
    if given is None or (isinstance(given, dict) and "beta_fast" in given):  # YaRN: named by architecture_of
        return None
    if not isinstance(given, dict) or set(given) != set(_LLAMA3):
        return f"does not have exactly the keys {', '.join(_LLAMA3)}"
    for key, value in given.items():
        if type(value) not in (int, float) or not 0 < value <= 1e9:
            return f"has a {key} that is not a number above 0 and at most 1e9"
    if given["high_freq_factor"] <= given["low_freq_factor"]:
        return "has a high_freq_factor that does not exceed its low_freq_factor"
    return None


def _family(config: Config) -> str | None:
    shape = (config.mlp_class_name, config.norm_class_name)
    if shape == ("GptNeoxMLP", "LayerNorm") and config.bias and not config.norm_qk:
        return "gpt_neox"
    if shape != ("LLaMAMLP", "RMSNorm") or config.parallel_residual:
        return None
    if config.bias:
        return None if config.norm_qk else "llama"
    return {(False, False): "llama", (True, False): "qwen2", (False, True): "qwen3"}.get(
        (config.attn_bias, config.norm_qk)
    )


def architecture_of(config: Config, tied: bool) -> Architecture:
    """The sizes and family of a litgpt model; `tied` says whether head and embedding share weights.

    Raises:
        SprigError: the model has a part that Sprig cannot cut, or does not belong to a supported family.
    """
    for part, present in _UNSUPPORTED.items():
        if present(config):
            raise SprigError(
                f"{config.name} has {part}, which Sprig does not support: use a plain GPT-NeoX, Llama, Qwen2.5 or "
                "Qwen3 model."
            )
    family = _family(config)
    if family is None:
        raise SprigError(
            f"{config.name} ({config.mlp_class_name}, {config.norm_class_name}, bias={config.bias}, attn_bias="
            f"{config.attn_bias}, norm_qk={config.norm_qk}, parallel_residual={config.parallel_residual}) is of no "
            "supported family: use a GPT-NeoX, Llama, Qwen2.5 or Qwen3 model."
        )
    return Architecture(
        name=config.name,
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
        tied=tied,
        bias=config.bias,
        attention_bias=config.bias or config.attn_bias,
        lm_head_bias=config.lm_head_bias,
        layer_norm=config.norm_class_name == "LayerNorm",
        gated_mlp=config.mlp_class_name == "LLaMAMLP",
        qk_norm=config.norm_qk,
        rotary_percentage=config.rotary_percentage,
        rope_base=config.rope_base,
        rope_adjusted=config.rope_adjustments is not None,
        parallel_residual=config.parallel_residual,
    )


def rotary_share(entries: int, head_size: int) -> float:
    """`entries` of `head_size` as a share, which litgpt multiplies by a head size and truncates. Half an entry is added
    unless the share is a binary fraction, because rounding could then make the product too small."""
    share = entries / head_size
    exact = share.as_integer_ratio()[1] <= head_size
    return share if exact else (entries + 0.5) / head_size


def is_tied(model: GPT) -> bool:
    """Whether head and embedding are the same parameter."""
    return model.lm_head.weight is model.transformer.wte.weight
