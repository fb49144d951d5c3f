"""Mixtures of experts: Mixtral; Qwen3-MoE, which has norms of q and k; and OLMoE, whose norms of q and k run over all
heads together. A router sends each token to the experts of its largest logits, and adds their outputs, weighted by a
softmax over these logits, or over all without `norm_topk_prob`. Every layer is a mixture."""

import reprlib
from dataclasses import replace
from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import reading as read
from pipeline.models.families.family import Described, Family, Names, Stock
from pipeline.models.families.qwen import refuse_windows

_FIELDS: dict[str, Any] = {"mlp_class_name": "LLaMAMoE"}
_PARTS: dict[str, tuple[Any, ...]] = {"experts": (True,), "MLP": ("LLaMAMoE",)}


def _names(mixture: str, gate: str, up: str, down: str) -> Names:
    dense = {part: module for part, module in read.LLAMA_NAMES.parts.items() if part not in read.MLP}
    experts = {f"experts.{part}": f"{mixture}.experts.{{}}.{theirs}"
               for part, theirs in (("gate", gate), ("up", up), ("down", down))}  # fmt: skip
    return replace(read.LLAMA_NAMES, parts=dense | {"router": f"{mixture}.gate"} | experts)


_MIXTRAL_NAMES = _names("block_sparse_moe", "w1", "w3", "w2")
_QWEN_NAMES = _names("mlp", "gate_proj", "up_proj", "down_proj")


def _mixtral(plain: dict[str, Any]) -> Described:
    read.refuse_window(plain | {"layer_types": None}, plain.get("sliding_window"))
    config = read.llama_like(
        plain,
        8,
        1e6,
        **_FIELDS,
        n_expert=plain.get("num_local_experts", 8),
        n_expert_per_token=plain.get("num_experts_per_tok", 2),
        norm_eps=plain.get("rms_norm_eps", 1e-5),
    )
    return replace(read.described(plain, config), names=_MIXTRAL_NAMES)


def _qwen3_moe(plain: dict[str, Any]) -> Described:
    refuse_windows(plain)
    needed = {"attention_bias": (False, False), "decoder_sparse_step": (1, 1)}
    for key, (supported, absent) in needed.items():
        if (value := plain.get(key, absent)) != supported:
            raise SprigError(
                f"{key}={reprlib.repr(value)} is not supported in a mixture, only {supported}: use another model"
            )
    if dense := plain.get("mlp_only_layers"):
        raise SprigError(
            f"layers without experts (mlp_only_layers={reprlib.repr(dense)}) are not supported: use another"
        )
    config = read.llama_like(
        plain,
        4,
        **_FIELDS,
        **_weights(plain),
        norm_qk=True,
        intermediate_size=plain.get("moe_intermediate_size", 768),
        # Its name in files of transformers 5.
        n_expert=plain.get("num_experts", plain.get("num_local_experts", 128)),
        n_expert_per_token=plain.get("num_experts_per_tok", 8),
    )
    return replace(read.described(plain, config), names=_QWEN_NAMES)


def _olmoe(plain: dict[str, Any]) -> Described:
    read.refuse_keys(plain, "OLMoE", "attention_bias", "clip_qkv")
    config = read.llama_like(
        plain,
        None,
        **_FIELDS,
        **_weights(plain),
        norm_qk=True,
        norm_qk_type="olmo2",
        norm_eps=plain.get("rms_norm_eps", 1e-5),
        n_expert=plain.get("num_experts", plain.get("num_local_experts", 64)),
        n_expert_per_token=plain.get("num_experts_per_tok", 8),
    )
    return replace(read.described(plain, config), names=_QWEN_NAMES)


def _weights(plain: dict[str, Any]) -> dict[str, Any]:
    """litgpt's fields for the weights of the experts; see pipeline.models.experts."""
    return {} if read.flag(plain, "norm_topk_prob", False) else {"routed_scaling_factor": None}


def _mixtral_keys(config: Config) -> dict[str, Any]:
    return {
        "num_local_experts": config.n_expert,
        "num_experts_per_tok": config.n_expert_per_token,
        "sliding_window": None,
    }


def _qwen_keys(config: Config) -> dict[str, Any]:
    return {
        "num_experts": config.n_expert,
        "num_experts_per_tok": config.n_expert_per_token,
        "moe_intermediate_size": config.intermediate_size,
        "norm_topk_prob": config.routed_scaling_factor is not None,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "attention_bias": False,
        "use_sliding_window": False,
    }


def _olmoe_keys(config: Config) -> dict[str, Any]:
    return {
        "num_experts": config.n_expert,
        "num_experts_per_tok": config.n_expert_per_token,
        "norm_topk_prob": config.routed_scaling_factor is not None,
        "attention_bias": False,
        "clip_qkv": None,
    }


MIXTRAL = Family(
    name="mixtral",
    called="Mixtral",
    parts=_PARTS,
    names=_MIXTRAL_NAMES,
    readers={"mixtral": _mixtral},
    stock=Stock("mixtral", "MixtralForCausalLM", _mixtral_keys),
)
QWEN3_MOE = Family(
    name="qwen3_moe",
    called="Qwen3-MoE",
    parts=_PARTS | {"qk norm": (True,), "open weights": (False, True)},
    names=_QWEN_NAMES,
    readers={"qwen3_moe": _qwen3_moe},
    stock=Stock("qwen3_moe", "Qwen3MoeForCausalLM", _qwen_keys),
)
OLMOE = Family(
    name="olmoe",
    called="OLMoE",
    parts=_PARTS | {"qk norm": (True,), "qk norm over heads": (True,), "open weights": (False, True)},
    names=_QWEN_NAMES,
    readers={"olmoe": _olmoe},
    stock=Stock("olmoe", "OlmoeForCausalLM", _olmoe_keys),
)
