"""Valid litgpt configurations: fields of the right types and ranges that agree with one another."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families.family import Folded

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
    "sliding_window_size": 2**22,
    "attention_scores_scalar": 2**20,
    "moe_intermediate_size": 2**24,
}
_EXPERTS = 2**14
# None: litgpt fills it in, or the model does without.
_OPTIONAL = (
    "n_query_groups",
    "head_size",
    "intermediate_size",
    "padded_vocab_size",
    "sliding_window_size",
    "attention_scores_scalar",
    "moe_intermediate_size",
    "rope_local_base_freq",
    "attention_logit_softcapping",
    "final_logit_softcapping",
)
_REAL = {  # greater than the first bound, at most the second
    "norm_eps": (0.0, 1.0),
    "rope_base": (0.0, 1e15),
    "rope_local_base_freq": (0.0, 1e15),
    "rope_condense_ratio": (0.0, 1e9),
    "rotary_percentage": (0.0, 1.0),
    "attention_logit_softcapping": (0.0, 1e6),
    "final_logit_softcapping": (0.0, 1e6),
}
_CHOICES = {"gelu_approximate": ("none", "tanh"), "norm_qk_type": ("default", "olmo2")}
_DEFAULTS = {field.name: field.default for field in fields(Config)}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len")


def checked(given: dict[str, Any], called: Callable[[str], str] = str) -> Config:
    """The litgpt configuration with these fields, after checking their types, their ranges and that they agree.

    `called` translates a field's name into the source's own, for errors. A float is not accepted as a whole number.

    Raises:
        SprigError: what is wrong. The caller adds the file and the fix.
    """
    for name, value in given.items():
        if name not in _DEFAULTS:
            raise SprigError(f"{reprlib.repr(name)} is not a field of litgpt's configuration")
        local = given.get("rope_local_base_freq") is not None
        if wrong := _wrong(name, value, local):
            raise SprigError(f"{called(name)}={reprlib.repr(value)} {wrong}")
    if given.get("mlp_class_name") == "LLaMAMoE":
        given = _with_experts(given, called)
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
    if config.rope_local_base_freq is None and _wrong_indices(config.rope_indices, config.n_layer):
        raise SprigError(f"rope_indices={reprlib.repr(config.rope_indices)} is not 0 or 1 for each layer")
    return replace(config, name=neutral(config.name), attention_scores_scalar=None)


def _wrong_indices(given: Any, layers: int) -> bool:
    """litgpt itself checks them only with a local base; without one, 1 is a layer without rotary positions."""
    if given is None:
        return False
    right = isinstance(given, list) and len(given) == layers
    return not right or not all(type(each) is int and each in (0, 1) for each in given)


def _with_experts(given: dict[str, Any], called: Callable[[str], str]) -> dict[str, Any]:
    """The fields of a mixture, with the experts' width as `intermediate_size`."""
    experts, passed = given.get("n_expert", 0), given.get("n_expert_per_token", 0)
    if not 1 <= passed <= experts <= _EXPERTS:
        raise SprigError(
            f"{called('n_expert_per_token')}={passed} and {called('n_expert')}={experts} do not fit: a token "
            f"passes at least 1 of at most {_EXPERTS:,} experts, and no more than there are"
        )
    width = given.get("moe_intermediate_size")
    return given if width is None else given | {"intermediate_size": width, "moe_intermediate_size": None}


def neutral(name: str) -> str:
    """A model's name as litgpt may know it. By "Gemma" in it, litgpt decides that norms add one to their weights, and
    Sprig has folded that into the weights; by "OLMo", that LayerNorms have no weights, which Sprig does not support."""
    return name.replace("Gemma", "gemma").replace("OLMo", "olmo")


def folded(given: Mapping[str, Any]) -> Folded:
    """What the weights of a litgpt configuration with these fields lack that those of `checked` have folded in."""
    config = Config(**given)
    scalar = config.attention_scores_scalar
    factor = math.sqrt(config.head_size / scalar) if scalar else 1.0
    return Folded(1.0 if "Gemma" in config.name and config.norm_class_name == "RMSNorm" else 0.0, factor)


def _wrong(name: str, value: Any, local: bool) -> str | None:
    """Why a field of litgpt's configuration cannot have this value; `local`: some layers have other frequencies."""
    default = _DEFAULTS[name]
    if value is None and name in _OPTIONAL:
        return None
    if name in _WHOLE:
        right = type(value) is int and 1 <= value <= _WHOLE[name]
        return None if right else f"is not a whole number from 1 to {_WHOLE[name]:,}"
    if name in _REAL:
        least, most = _REAL[name]
        right = type(value) in (int, float) and least < value <= most
        return None if right else f"is not a number above {least:g} and at most {most:g}"
    if name == "rope_adjustments":
        return _wrong_adjustments(value, ("factor",) if local else _LLAMA3)
    if name in _CHOICES:
        return None if value in _CHOICES[name] else f"is not {' or '.join(_CHOICES[name])}"
    for kind, called in ((bool, "true or false"), (int, "a whole number"), (str, "a text")):
        if type(default) is kind and type(value) is not kind:
            return f"is not {called}"
    return None


def _wrong_adjustments(given: Any, keys: tuple[str, ...]) -> str | None:
    """Why these rotary adjustments are refused: of litgpt's, extraction and export support only Llama 3.1's, and a
    factor where some layers are not adjusted."""
    if given is None or (isinstance(given, dict) and "beta_fast" in given):  # YaRN: named by architecture_of
        return None
    if not isinstance(given, dict) or set(given) != set(keys):
        return f"does not have exactly the keys {', '.join(keys)}"
    for key, value in given.items():
        if type(value) not in (int, float) or not 0 < value <= 1e9:
            return f"has a {key} that is not a number above 0 and at most 1e9"
    if keys == _LLAMA3 and given["high_freq_factor"] <= given["low_freq_factor"]:
        return "has a high_freq_factor that does not exceed its low_freq_factor"
    return None


def rotary_share(entries: int, head_size: int) -> float:
    """`entries` of `head_size` as a share, which litgpt multiplies by a head size and truncates. Half an entry is added
    unless the share is a binary fraction, because rounding could then make the product too small."""
    share = entries / head_size
    exact = share.as_integer_ratio()[1] <= head_size
    return share if exact else (entries + 0.5) / head_size
