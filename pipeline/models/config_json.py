"""config.json of a transformers model in litgpt's terms, with each family's defaults as transformers has them."""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import LLAMA_FIELDS, LLAMA_NAMES, NEOX_FIELDS, NEOX_NAMES, Names, checked, rotary_share

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
}
_GELU = {
    "none": ("gelu", "gelu_python"),
    "tanh": ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"),
}
_ADJUSTMENTS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_seq_len": "original_max_position_embeddings",
}
_ATTENTION, _MLP = frozenset({"q", "k", "v", "qkv", "out"}), frozenset({"gate", "up", "down"})


@dataclass(frozen=True)
class Described:
    """`unbiased` are the parts that have no bias in the file though litgpt's config gives them one: zero is the same
    function, and litgpt knows one switch for all of a block."""

    config: Config
    tied: bool
    names: Names
    unbiased: frozenset[str] = frozenset()


def describe(plain: dict[str, Any]) -> Described:
    """Reads a config.json.

    Raises:
        SprigError: a value is missing, out of range, in contradiction to another, or of a function that litgpt does
            not compute. Names the key; the caller adds the file.
    """
    family = plain.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise SprigError(
            f"it is of model_type {reprlib.repr(family)}; supported are {', '.join(_FAMILIES)}: use one of these"
        )
    if quantised := plain.get("quantization_config") or plain.get("compression_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise SprigError(
            f"the weights are quantised (quantization_config: {reprlib.repr(method)}): dequantise them first, or use "
            "the model from which they were quantised"
        )
    return _FAMILIES[family](plain)


def _flag(plain: dict[str, Any], key: str, absent: bool) -> bool:
    value = plain.get(key, absent)
    if type(value) is not bool:
        raise SprigError(f"{key}={reprlib.repr(value)} is not true or false")
    return value


def _activation(plain: dict[str, Any], names: tuple[str, ...], absent: str) -> str:
    value = plain.get("hidden_act", absent)
    if not isinstance(value, str) or value not in names:
        raise SprigError(
            f"hidden_act={reprlib.repr(value)} is not supported, only {', '.join(names)}: use another model"
        )
    return value


def _sizes(plain: dict[str, Any]) -> dict[str, Any]:
    for key in _SIZES.values():
        if key not in plain:
            raise SprigError(f"{key!r} is missing: fetch it again")
    return {"name": plain["model_type"]} | {ours: plain[theirs] for ours, theirs in _SIZES.items()}


def _checked(fields: dict[str, Any], **called: str) -> Config:
    keys = _KEYS | called
    try:
        return checked(fields, lambda name: keys.get(name, name))
    except SprigError as error:
        raise SprigError(f"{error}: correct it, or fetch the file again") from None


def _rope(plain: dict[str, Any], base_key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """litgpt's fields, and the dictionary that they come from. transformers 5 keeps everything under `rope_parameters`;
    earlier versions have the base at the top and the rest under `rope_scaling`."""
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        given = plain.get(key) or {}
        if not isinstance(given, dict):
            raise SprigError(f"{key}={reprlib.repr(given)} is not an object: fetch the file again")
        if apart := [each for each in given if each in rope and rope[each] != given[each]]:
            raise SprigError(f"rope_scaling and rope_parameters disagree in {apart[0]}: remove the wrong one")
        rope |= given
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise SprigError(f"rotary frequencies by layer type ({nested[0]}) are not supported: use another model")
    bases = [(key, plain[key]) for key in (base_key, "rope_theta") if plain.get(key) is not None]
    base = rope.get("rope_theta", bases[0][1] if bases else 10000.0)
    for key, value in bases:
        if value != base:
            raise SprigError(f"{key}={reprlib.repr(value)} and rope_theta={reprlib.repr(base)} disagree: correct one")
    whole = type(base) is float and math.isfinite(base) and base == int(base)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("type", kind) != kind:
        raise SprigError(
            f"rope_type={reprlib.repr(kind)} and type={reprlib.repr(rope['type'])} disagree: remove the wrong one"
        )
    return {"rope_base": int(base) if whole else base} | _scaling(kind, rope), rope


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


def _gpt_neox(plain: dict[str, Any]) -> Described:
    sizes, (rope, given) = _sizes(plain), _rope(plain, "rotary_emb_base")
    activation = _activation(plain, (*_GELU["none"], *_GELU["tanh"]), "gelu")
    shares = [plain[key] for key in ("rotary_pct", "partial_rotary_factor") if key in plain]
    share = given.get("partial_rotary_factor", shares[0] if shares else 0.25)
    if apart := [each for each in shares if each != share]:
        raise SprigError(
            f"rotary_pct={reprlib.repr(apart[0])} and rope_parameters.partial_rotary_factor={reprlib.repr(share)} "
            "disagree, and which one transformers reads depends on its version: correct one"
        )
    fields = (
        NEOX_FIELDS
        | sizes
        | rope
        | {
            "rotary_percentage": share,
            "norm_eps": plain.get("layer_norm_eps", 1e-5),
            "parallel_residual": _flag(plain, "use_parallel_residual", True),
            "gelu_approximate": "tanh" if activation in _GELU["tanh"] else "none",
        }
    )
    fields = _even_rotary(fields)
    config = _checked(fields, norm_eps="layer_norm_eps", rope_base="rope_theta or rotary_emb_base")
    if plain.get("head_dim") not in (None, config.head_size):
        raise SprigError(
            f"head_dim={reprlib.repr(plain['head_dim'])} is not hidden_size / num_attention_heads, "
            f"{config.head_size}: remove it"
        )
    unbiased = frozenset() if _flag(plain, "attention_bias", True) else _ATTENTION
    return Described(config, _flag(plain, "tie_word_embeddings", False), NEOX_NAMES, unbiased)


def _even_rotary(fields: dict[str, Any]) -> dict[str, Any]:
    """transformers turns n + 1 entries where a share gives an odd number n, with the frequencies of n: B**(-2i/n) is
    (B**((n+1)/n))**(-2i/(n+1))."""
    share, width, heads, base = (fields[key] for key in ("rotary_percentage", "n_embd", "n_head", "rope_base"))
    if any(type(each) not in (int, float) for each in (share, width, heads, base)):
        return fields
    if not (0 < share <= 1 and 0 < heads <= width and width % heads == 0 and 0 < base < 1e15):
        return fields  # refused by `checked`
    size = width // heads
    odd = int(size * share)
    if odd % 2 == 0 or odd + 1 > size:
        return fields
    return fields | {
        "rotary_percentage": rotary_share(odd + 1, size),
        "rope_base": float(base) ** ((odd + 1) / odd),
    }


def _llama_like(plain: dict[str, Any], groups: int | None, **fields: Any) -> Config:
    """`groups` is what a missing num_key_value_heads means; None: as many as heads."""
    sizes, (rope, given) = _sizes(plain), _rope(plain, "rope_theta")
    _activation(plain, ("silu", "swish"), "silu")
    for share in (given.get("partial_rotary_factor"), plain.get("partial_rotary_factor")):
        if share not in (None, 1):
            raise SprigError(f"partial_rotary_factor={reprlib.repr(share)} is not supported, only 1: use another model")
    given_size = {"head_size": plain.get("head_dim")}
    shape = {"n_query_groups": plain.get("num_key_value_heads", groups), "norm_eps": plain.get("rms_norm_eps", 1e-6)}
    return _checked(LLAMA_FIELDS | sizes | rope | given_size | shape | fields)


def _refuse_window(plain: dict[str, Any], window: Any, layers: Callable[[int], bool] = lambda _: True) -> None:
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


def _llama(plain: dict[str, Any]) -> Described:
    _refuse_window(plain, None)
    attention, mlp = _flag(plain, "attention_bias", False), _flag(plain, "mlp_bias", False)
    config = _llama_like(plain, None, bias=attention or mlp)
    unbiased = (frozenset() if attention else _ATTENTION) | (frozenset() if mlp else _MLP)
    return _described(plain, config, unbiased if config.bias else frozenset())


def _mistral(plain: dict[str, Any]) -> Described:
    _refuse_window(plain | {"layer_types": None}, plain.get("sliding_window", 4096))
    return _described(plain, _llama_like(plain, 8))


def _qwen_window(plain: dict[str, Any]) -> None:
    window = plain.get("sliding_window", 4096) if _flag(plain, "use_sliding_window", False) else None
    first = plain.get("max_window_layers", 28)
    if type(first) is not int:
        raise SprigError(f"max_window_layers={reprlib.repr(first)} is not a whole number")
    _refuse_window(plain, window, lambda layer: layer >= first)


def _qwen2(plain: dict[str, Any]) -> Described:
    _qwen_window(plain)
    return _described(plain, _llama_like(plain, 32, attn_bias=True))


def _qwen3(plain: dict[str, Any]) -> Described:
    _qwen_window(plain)
    if _flag(plain, "attention_bias", False):
        raise SprigError("attention_bias=True is not supported with q and k norms: use another model")
    return _described(plain, _llama_like(plain, 32, norm_qk=True, head_size=plain.get("head_dim", 128)))


def _described(plain: dict[str, Any], config: Config, unbiased: frozenset[str] = frozenset()) -> Described:
    return Described(config, _flag(plain, "tie_word_embeddings", False), LLAMA_NAMES, unbiased)


_FAMILIES = {"gpt_neox": _gpt_neox, "llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3}
