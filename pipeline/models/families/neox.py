"""GPT-NeoX (Pythia): LayerNorm, parallel residual, biases, partial rotary, q, k and v of a head together."""

import reprlib
from typing import Any

import torch
from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import reading as read
from pipeline.models.families.checking import rotary_share
from pipeline.models.families.family import Described, Family, Names, Parts, Stock

_NAMES = Names(
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
_FIELDS = {"norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP", "bias": True}


def _read(plain: dict[str, Any]) -> Described:
    sizes, (rope, given) = read.sizes(plain), read.rope(plain, "rotary_emb_base")
    activation = read.activation(plain, (*read.GELU["none"], *read.GELU["tanh"]), "gelu")
    shares = [plain[key] for key in ("rotary_pct", "partial_rotary_factor") if key in plain]
    share = given.get("partial_rotary_factor", shares[0] if shares else 0.25)
    if apart := [each for each in shares if each != share]:
        raise SprigError(
            f"rotary_pct={reprlib.repr(apart[0])} and rope_parameters.partial_rotary_factor={reprlib.repr(share)} "
            "disagree, and which one transformers reads depends on its version: correct one"
        )
    fields = (
        _FIELDS
        | sizes
        | rope
        | {
            "rotary_percentage": share,
            "norm_eps": plain.get("layer_norm_eps", 1e-5),
            "parallel_residual": read.flag(plain, "use_parallel_residual", True),
            "gelu_approximate": "tanh" if activation in read.GELU["tanh"] else "none",
        }
    )
    fields = _even_rotary(fields)
    config = read.checked_keys(fields, norm_eps="layer_norm_eps", rope_base="rope_theta or rotary_emb_base")
    if plain.get("head_dim") not in (None, config.head_size):
        raise SprigError(
            f"head_dim={reprlib.repr(plain['head_dim'])} is not hidden_size / num_attention_heads, "
            f"{config.head_size}: remove it"
        )
    unbiased = frozenset() if read.flag(plain, "attention_bias", True) else read.ATTENTION
    return Described(config, read.flag(plain, "tie_word_embeddings", False), _NAMES, unbiased, unfuse=_by_kind)


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


def _by_kind(parts: Parts, config: Config) -> Parts:
    """GPT-NeoX keeps q, k and v of one head together."""
    apart = {}
    for name, tensor in parts.items():
        if not name.startswith("qkv."):
            apart[name] = tensor
            continue
        by_kind = tensor.unflatten(0, (config.n_head, 3, config.head_size)).transpose(0, 1).flatten(1, 2)
        apart |= {f"{part}.{name.partition('.')[2]}": each for part, each in zip("qkv", by_kind, strict=True)}
    return apart


def _by_head(parts: Parts) -> Parts:
    joined = {name: tensor for name, tensor in parts.items() if name.partition(".")[0] not in ("q", "k", "v")}
    for kind in ("weight", "bias"):
        heads = torch.cat([parts[f"{name}.{kind}"] for name in "qkv"], dim=1)
        joined[f"qkv.{kind}"] = heads.flatten(0, 2)
    return joined


def _keys(config: Config) -> dict[str, Any]:
    return {
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": True,
    }


NEOX = Family(
    name="gpt_neox",
    called="GPT-NeoX",
    parts={
        "norm": ("LayerNorm",),
        "MLP": ("GptNeoxMLP",),
        "parallel residual": (True, False),
        "biases": ("all",),
    },
    names=_NAMES,
    readers={"gpt_neox": _read},
    stock=Stock("gpt_neox", "GPTNeoXForCausalLM", _keys),
    fuse=_by_head,
)
