"""What families share when they read a config.json: sizes, rotary positions, flags, in transformers' own defaults."""

import math
import reprlib
from collections.abc import Callable
from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families.checking import checked
from pipeline.models.families.family import Described, Names

LLAMA_FIELDS = {
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
    "bias": False,
    "parallel_residual": False,
    "rotary_percentage": 1.0,
}
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
_SIZES = {
    "block_size": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "padded_vocab_size": "vocab_size",
}
_KEYS = _SIZES | {
    "n_query_groups": "num_key_value_heads",
    "head_size": "head_dim",
    "rotary_percentage": "partial_rotary_factor",
    "rope_base": "rope_theta",
    "rope_condense_ratio": "rope factor",
    "rope_adjustments": "rope_parameters",
    "norm_eps": "rms_norm_eps",
    "parallel_residual": "use_parallel_residual",
    "n_expert": "num_local_experts",
    "n_expert_per_token": "num_experts_per_tok",
}
# The names that some mixtures have for the same.
_MIXTURE_KEYS = {"n_expert": "num_experts", "intermediate_size": "moe_intermediate_size"}
GELU = {
    "none": ("gelu", "gelu_python"),
    "tanh": ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"),
}
_ADJUSTMENTS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_seq_len": "original_max_position_embeddings",
}
ATTENTION, MLP = frozenset({"q", "k", "v", "qkv", "out"}), frozenset({"gate", "up", "down"})


def flag(plain: dict[str, Any], key: str, absent: bool) -> bool:
    value = plain.get(key, absent)
    if type(value) is not bool:
        raise SprigError(f"{key}={reprlib.repr(value)} is not true or false")
    return value


def activation(plain: dict[str, Any], names: tuple[str, ...], absent: str, key: str = "hidden_act") -> str:
    value = plain.get(key, absent)
    if not isinstance(value, str) or value not in names:
        raise SprigError(f"{key}={reprlib.repr(value)} is not supported, only {', '.join(names)}: use another model")
    return value


def sizes(plain: dict[str, Any]) -> dict[str, Any]:
    for key in _SIZES.values():
        if key not in plain:
            raise SprigError(f"{key!r} is missing: fetch it again")
    return {"name": plain["model_type"]} | {ours: plain[theirs] for ours, theirs in _SIZES.items()}


def checked_keys(fields: dict[str, Any], **called: str) -> Config:
    keys = _KEYS | called
    try:
        return checked(fields, lambda name: keys.get(name, name))
    except SprigError as error:
        raise SprigError(f"{error}: correct it, or fetch the file again") from None


def rope(plain: dict[str, Any], base_key: str, absent: float = 10000.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """litgpt's fields, and the dictionary that they come from. transformers 5 keeps everything under `rope_parameters`;
    earlier versions have the base at the top and the rest under `rope_scaling`. `absent` is the base of none."""
    found: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        given = plain.get(key) or {}
        if not isinstance(given, dict):
            raise SprigError(f"{key}={reprlib.repr(given)} is not an object: fetch the file again")
        if apart := [each for each in given if each in found and found[each] != given[each]]:
            raise SprigError(f"rope_scaling and rope_parameters disagree in {apart[0]}: remove the wrong one")
        found |= given
    if nested := [key for key, value in found.items() if isinstance(value, dict)]:
        raise SprigError(f"rotary frequencies by layer type ({nested[0]}) are not supported: use another model")
    bases = [(key, plain[key]) for key in (base_key, "rope_theta") if plain.get(key) is not None]
    base = found.get("rope_theta", bases[0][1] if bases else absent)
    for key, value in bases:
        if value != base:
            raise SprigError(f"{key}={reprlib.repr(value)} and rope_theta={reprlib.repr(base)} disagree: correct one")
    whole = type(base) is float and math.isfinite(base) and base == int(base)
    kind = found.get("rope_type", found.get("type", "default"))
    if found.get("type", kind) != kind:
        raise SprigError(
            f"rope_type={reprlib.repr(kind)} and type={reprlib.repr(found['type'])} disagree: remove the wrong one"
        )
    return {"rope_base": int(base) if whole else base} | _scaling(kind, found), found


def _scaling(kind: Any, rope: dict[str, Any]) -> dict[str, Any]:
    if kind in ("default", "dynamic"):  # dynamic scaling begins where max_position_embeddings, Sprig's context, ends
        return {}
    if kind not in ("linear", "llama3"):
        raise SprigError(
            f"rotary scaling {reprlib.repr(kind)} is not supported, only linear, llama3 and dynamic: use another model"
        )
    needed = ("factor",) if kind == "linear" else tuple(_ADJUSTMENTS.values())
    if missing := [key for key in needed if key not in rope]:
        raise SprigError(f"rotary scaling {kind!r} lacks {missing[0]!r}: fetch the file again")
    if kind == "linear":
        return {"rope_condense_ratio": rope["factor"]}
    return {"rope_adjustments": {ours: rope[theirs] for ours, theirs in _ADJUSTMENTS.items()}}


def llama_like(plain: dict[str, Any], groups: int | None, rope_theta: float = 10000.0, **fields: Any) -> Config:
    """`groups` is what a missing num_key_value_heads means, None: as many as heads; `rope_theta` a missing one."""
    base, (positions, given) = sizes(plain), rope(plain, "rope_theta", rope_theta)
    activation(plain, ("silu", "swish"), "silu")
    for share in (given.get("partial_rotary_factor"), plain.get("partial_rotary_factor")):
        if share not in (None, 1):
            raise SprigError(f"partial_rotary_factor={reprlib.repr(share)} is not supported, only 1: use another model")
    given_size = {"head_size": plain.get("head_dim")}
    shape = {"n_query_groups": plain.get("num_key_value_heads", groups), "norm_eps": plain.get("rms_norm_eps", 1e-6)}
    called = {field: key for field, key in _MIXTURE_KEYS.items() if key in plain}
    return checked_keys(LLAMA_FIELDS | base | positions | given_size | shape | fields, **called)


def refuse_window(plain: dict[str, Any], window: Any, layers: Callable[[int], bool] = lambda _: True) -> None:
    """A window that no text of Sprig's reaches the end of changes nothing. `layers` says which ones have it."""
    types = plain.get("layer_types")
    depth, context = plain.get("num_hidden_layers"), plain.get("max_position_embeddings")
    if types is not None:
        if not isinstance(types, list) or not all(each in ("full_attention", "sliding_attention") for each in types):
            raise SprigError(f"layer_types={reprlib.repr(types)} is not supported, only full_attention: use another")
        sliding = "sliding_attention" in types
    else:
        sliding = window is not None and type(depth) is int and any(layers(each) for each in range(min(depth, 4096)))
    if not sliding or (type(window) is int and type(context) is int and window >= context):
        return
    raise SprigError(
        f"sliding_attention (sliding_window={reprlib.repr(window)}, max_position_embeddings={reprlib.repr(context)}) "
        "is not supported, only windows as long as the context: use another model, or lower max_position_embeddings"
    )


def refuse_keys(plain: dict[str, Any], called: str, *keys: str) -> None:
    """Refuses keys of config.json whose parts a family does not have; they may be absent, null or false."""
    for key in keys:
        if plain.get(key):
            raise SprigError(f"{key}={reprlib.repr(plain[key])} is not supported in {called}: use another model")


def described(plain: dict[str, Any], config: Config, unbiased: frozenset[str] = frozenset()) -> Described:
    return Described(config, flag(plain, "tie_word_embeddings", False), LLAMA_NAMES, unbiased)
