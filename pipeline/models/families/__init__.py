"""The model families that Sprig can cut, one file each. To add one, see docs/extend.md."""

from litgpt import GPT, Config

from pipeline.config.own import imported
from pipeline.errors import SprigError
from pipeline.models.families.checking import checked, rotary_share
from pipeline.models.families.family import Family
from pipeline.models.families.gemma import GEMMA3
from pipeline.models.families.gemma2 import GEMMA2
from pipeline.models.families.llama import LLAMA
from pipeline.models.families.mixtures import MIXTRAL, OLMOE, QWEN3_MOE
from pipeline.models.families.neox import NEOX
from pipeline.models.families.olmo import OLMO2
from pipeline.models.families.parts import strange
from pipeline.models.families.qwen import QWEN2, QWEN3
from pipeline.models.families.smollm import SMOLLM3
from pipeline.subnetwork.architecture import Architecture

__all__ = [
    "CALLED",
    "FAMILIES",
    "architecture_of",
    "checked",
    "family_of",
    "is_power_law",
    "is_tied",
    "register",
    "rotary_share",
]

_ALL = (NEOX, LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, OLMO2, SMOLLM3, MIXTRAL, QWEN3_MOE, OLMOE)
FAMILIES = {family.name: family for family in _ALL}
_NAMES = [family.called for family in FAMILIES.values()]
CALLED = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"


def register(path: str | None) -> None:
    """Adds a family of the user's own, by its import path (teacher.family), to those that models are held against.

    Raises:
        SprigError: it cannot be imported, is not a Family, or has the name of another one.
    """
    if path is None:
        return
    family = imported("teacher.family", path)
    if not isinstance(family, Family):
        raise SprigError(
            f"teacher.family={path} is of type {type(family).__name__}: name a Family, see docs/extend.md."
        )
    if FAMILIES.setdefault(family.name, family) is not family:
        raise SprigError(f"teacher.family={path} is called {family.name}, as another family is: give it another name.")


def family_of(config: Config) -> Family:
    """The family of a litgpt model.

    Raises:
        SprigError: it has a part that none of the families has; names the parts in which it differs from the nearest.
    """
    apart = {}
    for name, family in FAMILIES.items():
        apart[name] = strange(config, family.parts)
        if not apart[name]:
            return family
    nearest = min(apart, key=lambda name: len(apart[name]))
    raise SprigError(
        f"{config.name} has {' and '.join(apart[nearest])}, which Sprig does not support in a "
        f"{FAMILIES[nearest].called} model: use a plain {CALLED} model."
    )


def architecture_of(config: Config, tied: bool) -> Architecture:
    """The sizes and family of a litgpt model; `tied` says whether head and embedding share weights.

    Raises:
        SprigError: the model has a part that Sprig cannot cut, or does not belong to a supported family.
    """
    return Architecture(
        name=config.name,
        family=family_of(config).name,
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
        gated_mlp=config.mlp_class_name != "GptNeoxMLP",
        qk_norm=config.norm_qk,
        rotary_percentage=config.rotary_percentage,
        rope_base=config.rope_base,
        rope_adjusted=not is_power_law(config),
        parallel_residual=config.parallel_residual,
        norms_before=config.norm_1,
        norms_after=config.post_attention_norm,
        capped_scores=config.attention_logit_softcapping is not None,
        capped_logits=config.final_logit_softcapping is not None,
        qk_norm_over_heads=config.norm_qk and config.norm_qk_type == "olmo2",
        n_expert=config.n_expert,
        n_expert_per_token=config.n_expert_per_token if config.n_expert else 0,
    )


def is_power_law(config: Config) -> bool:
    """Whether the rotary frequencies of all layers are one power law of `rope_base`."""
    return config.rope_adjustments is None and config.rope_local_base_freq is None


def is_tied(model: GPT) -> bool:
    """Whether head and embedding are the same parameter."""
    return model.lm_head.weight is model.transformer.wte.weight
