"""The parts that a model may have, read off its litgpt configuration, and the sentence for those of no family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from litgpt import Config


@dataclass(frozen=True)
class Part:
    """`of` reads its value, `plain` is the one of a Llama, and `phrase` names any other."""

    phrase: str
    of: Callable[[Config], Any]
    plain: Any


def _norm(config: Config) -> str:
    if "Gemma" in config.name:  # litgpt decides it by the name; see pipeline.models.families.checking
        return "RMSNorm with an offset"
    if config.norm_class_name == "LayerNorm" and "OLMo" in config.name:
        return "LayerNorm without weights"
    return config.norm_class_name


def _biases(config: Config) -> str:
    return "all" if config.bias else "attention" if config.attn_bias else "none"


PARTS = {
    "experts": Part("a mixture of experts", lambda c: c.n_expert > 0 or c.mlp_class_name == "LLaMAMoE", False),
    "shared experts": Part("shared experts", lambda c: bool(c.n_shared_expert), False),
    "expert groups": Part("groups of experts with sigmoid routing", lambda c: bool(c.n_expert_groups), False),
    "scaled routing": Part("a factor on what is routed", lambda c: c.routed_scaling_factor not in (1, None), False),
    "open weights": Part(
        "routing weights that do not sum to 1", lambda c: c.n_expert > 0 and c.routed_scaling_factor is None, False
    ),
    "first layers": Part("dense layers before the mixtures", lambda c: bool(c.first_k_dense_replace), False),
    "latent attention": Part("latent attention", lambda c: c.latent_attention is not None, False),
    "windows": Part("sliding window attention", lambda c: c.sliding_window_size is not None, False),
    "shared norm": Part("an attention norm shared with the MLP", lambda c: c.shared_attention_norm, False),
    "norms after": Part(
        "norms after attention or MLP", lambda c: (c.post_attention_norm, c.post_mlp_norm), (False, False)
    ),
    "norms before": Part("blocks without norms", lambda c: (c.norm_1, c.norm_2), (True, True)),
    "scaled embeddings": Part("scaled embeddings", lambda c: c.scale_embeddings, False),
    "soft caps": Part(
        "soft-capped logits",
        lambda c: (c.attention_logit_softcapping is not None, c.final_logit_softcapping is not None),
        (False, False),
    ),
    "attention scale": Part("an attention scale of its own", lambda c: c.attention_scores_scalar is not None, False),
    "qk norm over heads": Part(
        "q and k norms over all heads", lambda c: c.norm_qk and c.norm_qk_type != "default", False
    ),
    "interleaved rotary": Part("interleaved rotary entries", lambda c: c.rope_interleave, False),
    "local rotary": Part("local rotary frequencies", lambda c: c.rope_local_base_freq is not None, False),
    "no rotary": Part(
        "layers without rotary positions",
        lambda c: c.rope_local_base_freq is None and c.rope_indices is not None,
        False,
    ),
    "YaRN": Part("YaRN rotary scaling", lambda c: "beta_fast" in (c.rope_adjustments or {}), False),
    "norm": Part("norms of class {}", _norm, "RMSNorm"),
    "MLP": Part("an MLP of class {}", lambda c: c.mlp_class_name, "LLaMAMLP"),
    "parallel residual": Part("parallel attention and MLP", lambda c: c.parallel_residual, False),
    "qk norm": Part("q and k norms", lambda c: c.norm_qk, False),
    "biases": Part("biases ({})", _biases, "none"),
}


def strange(config: Config, supported: dict[str, tuple[Any, ...]]) -> list[str]:
    """The phrases of the parts that are neither plain nor among the supported ones of a family."""
    found = []
    for name, part in PARTS.items():
        value = part.of(config)
        if value not in supported.get(name, (part.plain,)):
            found.append(part.phrase.format(value) if value != part.plain else f"no {name}")
    return found
