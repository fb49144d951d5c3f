"""Gemma 3 (text): norms before and after attention and MLP, with weights stored less one; norms of q and k; a scaled
embedding; and layers with sliding windows, whose rotary base differs from the others'."""

import reprlib
from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import reading as read
from pipeline.models.families.checking import folded
from pipeline.models.families.family import GGUF, Described, Family, Folded, Names, Stock

NAMES = Names(
    "model",
    "embed_tokens",
    "norm",
    "lm_head",
    read.LLAMA_NAMES.parts
    | {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
)
COMMON = read.LLAMA_FIELDS | {
    "mlp_class_name": "GemmaMLP",
    "post_attention_norm": True,
    "post_mlp_norm": True,
    "scale_embeddings": True,
}
_FIELDS = COMMON | {"norm_qk": True}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_PATTERN = 6  # every sixth layer has full attention


def _read(plain: dict[str, Any]) -> Described:
    refused = ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention", "attention_bias")
    read.refuse_keys(plain, "Gemma 3", *refused)
    pattern = plain.get("sliding_window_pattern", plain.get("_sliding_window_pattern", _PATTERN))
    sliding = sliding_layers(plain, pattern)
    return described(plain, sliding, _FIELDS | _rope(plain) | {"rope_indices": sliding})


def described(plain: dict[str, Any], sliding: list[int], fields: dict[str, Any]) -> Described:
    """What Gemma 2 and 3 have in common, in addition to these fields."""
    activation = read.activation(
        plain, (*read.GELU["none"], *read.GELU["tanh"]), "gelu_pytorch_tanh", "hidden_activation"
    )
    fields = (
        fields
        | read.sizes(plain)
        | {
            "n_query_groups": plain.get("num_key_value_heads", 4),
            "head_size": plain.get("head_dim", 256),
            "norm_eps": plain.get("rms_norm_eps", 1e-6),
            "gelu_approximate": "tanh" if activation in read.GELU["tanh"] else "none",
            "sliding_window_size": plain.get("sliding_window", 4096),
            "sliding_window_indices": sliding,
            "attention_scores_scalar": plain.get("query_pre_attn_scalar", 256),
        }
    )
    called = {
        "sliding_window_size": "sliding_window",
        "attention_scores_scalar": "query_pre_attn_scalar",
        "attention_logit_softcapping": "attn_logit_softcapping",
    }
    config = read.checked_keys(fields, **called)
    kept = Folded(1.0, folded(fields).queries)
    return Described(config, read.flag(plain, "tie_word_embeddings", True), NAMES, folded=kept)


def sliding_layers(plain: dict[str, Any], pattern: Any) -> list[int]:
    """1 for each layer with a sliding window: where config.json does not name them, all but each `pattern`th."""
    depth, types = plain.get("num_hidden_layers"), plain.get("layer_types")
    if types is None and type(depth) is int and 0 < depth <= 4096:
        if type(pattern) is not int or pattern < 1:
            raise SprigError(f"sliding_window_pattern={reprlib.repr(pattern)} is not a whole number above 0")
        return all_but_every(pattern, depth)
    if not isinstance(types, list) or not set(map(str, types)) <= {_SLIDING, _FULL} or len(types) != depth:
        raise SprigError(
            f"layer_types={reprlib.repr(types)} does not name {_SLIDING} or {_FULL} for each of num_hidden_layers="
            f"{reprlib.repr(depth)} layers: fetch it again"
        )
    return [int(each == _SLIDING) for each in types]


def all_but_every(pattern: int, depth: int) -> list[int]:
    """0 for each `pattern`th of `depth` layers, 1 for the others."""
    return [int((layer + 1) % pattern > 0) for layer in range(depth)]


def _rope(plain: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 keeps the frequencies by layer type, earlier versions have them in keys of their own."""
    nested = plain.get("rope_parameters") or {}
    kinds = {}
    for kind, key, base in ((_FULL, "rope_theta", 1e6), (_SLIDING, "rope_local_base_freq", 1e4)):
        given = nested.get(kind) if isinstance(nested, dict) else nested
        own = {"rope_parameters": given or {}, "rope_theta": plain.get(key)}
        if kind == _FULL and not given:
            own["rope_scaling"] = plain.get("rope_scaling")
        if not (isinstance(given, dict) and "rope_theta" in given) and own["rope_theta"] is None:
            own["rope_theta"] = base
        kinds[kind], _ = read.rope(own, "rope_theta")
    full, sliding = kinds[_FULL], kinds[_SLIDING]
    if "rope_adjustments" in full or set(sliding) != {"rope_base"}:
        raise SprigError(
            "of rotary scaling, Gemma 3 supports linear in layers of full_attention alone: use another model"
        )
    factor = full.pop("rope_condense_ratio", None)
    adjusted = {} if factor is None else {"rope_adjustments": {"factor": factor}}
    return full | adjusted | {"rope_local_base_freq": sliding["rope_base"]}


def _keys(config: Config) -> dict[str, Any]:
    full: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_base}
    scaling = None
    if config.rope_adjustments is not None:
        scaling = {"rope_type": "linear", "factor": config.rope_adjustments["factor"]}
        full |= scaling
    return common_keys(config) | {
        "rope_parameters": {
            _FULL: full,
            _SLIDING: {"rope_type": "default", "rope_theta": config.rope_local_base_freq},
        },
        # The same for transformers 4.
        "rope_theta": config.rope_base,
        "rope_local_base_freq": config.rope_local_base_freq,
        "rope_scaling": scaling,
    }


def common_keys(config: Config) -> dict[str, Any]:
    """What config.json says of Gemma 2 and 3."""
    return {
        "hidden_activation": "gelu_pytorch_tanh" if config.gelu_approximate == "tanh" else "gelu",
        "query_pre_attn_scalar": config.head_size,
        "sliding_window": config.sliding_window_size,
        "layer_types": [_SLIDING if each else _FULL for each in config.sliding_window_indices],
        "final_logit_softcapping": config.final_logit_softcapping,
        "attn_logit_softcapping": config.attention_logit_softcapping,
    }


def _as_llama_cpp(fields: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's own code has the pattern of layers, the local base, and where positions are scaled."""
    depth, factor = fields["n_layer"], fields.pop("rope_condense_ratio")
    if depth == 62:
        raise SprigError("Gemma 3 27B divides scores by a different number, which GGUF files do not record")
    sliding = all_but_every(_PATTERN, depth)
    return fields | {
        "sliding_window_indices": sliding,
        "rope_indices": sliding,
        "rope_local_base_freq": 10000.0,
        "rope_adjustments": None if factor == 1 else {"factor": factor},
    }


GEMMA3 = Family(
    name="gemma3",
    called="Gemma 3",
    parts={
        "MLP": ("GemmaMLP",),
        "norms after": ((True, True),),
        "qk norm": (True,),
        "scaled embeddings": (True,),
        "windows": (True,),
        "local rotary": (True,),
    },
    names=NAMES,
    readers={"gemma3_text": _read},
    stock=Stock("gemma3_text", "Gemma3ForCausalLM", _keys),
    folded=Folded(norms=1.0),
    # Files hold the norms' weights with one added.
    gguf={"gemma3": GGUF(_FIELDS | {"gelu_approximate": "tanh"}, derived=_as_llama_cpp, windows=True)},
)
