"""A student in the names and the configuration of its family's stock transformers class."""

from dataclasses import replace
from typing import Any

from litgpt import GPT
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models.blocks import flat
from pipeline.models.families import FAMILIES, architecture_of, family_of, is_tied
from pipeline.models.families.family import Stock
from pipeline.models.padding import Target, common, padded
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.exported import SPLIT, neox_heads, refuses_heads

_SILU = ("LLaMAMLP", "LLaMAMoE")
_ACTIVATIONS = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}  # of litgpt's gelu_approximate


def target(model: GPT, cure: str) -> Target:
    """The smallest sizes of the model's stock class that hold every block.

    Raises:
        SprigError: there are none; says why, and the `cure`.
    """
    architecture = architecture_of(model.config, tied=False)
    name = architecture.name
    if architecture.lm_head_bias:
        raise SprigError(f"{name} has a bias in its head, which no stock class has: {cure}.")
    if architecture.family != "gpt_neox" and architecture.rotary_percentage != 1:
        raise SprigError(
            f"{name} rotates {architecture.rotary_percentage} of a head's entries, which Sprig exports in a stock "
            f"class only for GPT-NeoX: {cure}."
        )
    held = common(model, cure)
    heads = held.sizes.groups * held.sizes.heads
    if _class(architecture.family, heads, architecture.n_embd).kind == "mistral" and architecture.bias:
        raise SprigError(
            f"{name} has biases, and its width {architecture.n_embd} is not a multiple of its {heads} heads, "
            f"which a Llama needs in transformers from 5.9 on: {cure}."
        )
    if refuses_heads(architecture, heads, architecture.n_embd):
        raise SprigError(
            f"{name} has a width of {architecture.n_embd}, which is not a multiple of its {heads} heads, as a Gemma "
            f"needs in transformers from 5.9 on: {cure}."
        )
    return _split(architecture, held, cure) if architecture.family in SPLIT else held


def _split(architecture: Architecture, held: Target, cure: str) -> Target:
    """The sizes in a stock class without a head size of its own: it is width / heads. GPT-NeoX takes further heads of
    zeros; OLMoE's norms over all heads do not."""
    size, width = held.sizes, architecture.n_embd
    fits: tuple[int, int] | None = (size.groups, size.head_size)
    if architecture.family == "gpt_neox":
        fits = neox_heads(size.groups, size.heads, size.head_size, width)
    elif size.groups * size.heads * size.head_size != width:
        fits = None
    if fits is None:
        raise SprigError(
            f"{architecture.name} needs {size.groups} x {size.heads} heads of {size.head_size}, but stock "
            f"{architecture.family} has heads x head size = width, {width} here: {cure}."
        )
    return replace(held, sizes=replace(size, groups=fits[0], head_size=fits[1]))


def common_config(model: GPT) -> dict:
    """What config.json says in every form. The vocabulary's padding rows are left behind."""
    config = model.config
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "max_position_embeddings": config.block_size,
        "hidden_act": "silu" if config.mlp_class_name in _SILU else _ACTIVATIONS[config.gelu_approximate],
        "tie_word_embeddings": is_tied(model),
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",  # its name before transformers 4.56
    }


def config_json(model: GPT, target: Target) -> dict:
    """config.json of the stock class."""
    config, size = model.config, target.sizes
    family = family_of(config).name
    stock = _class(family, size.groups * size.heads, config.n_embd)
    plain = common_config(model) | {
        "architectures": [stock.name],
        "model_type": stock.kind,
        "num_attention_heads": size.groups * size.heads,
        "intermediate_size": size.neurons,
        **_rope(model, target, family),
    }
    if family != "gpt_neox":
        plain |= {
            "num_key_value_heads": size.groups,
            "head_dim": size.head_size,
            "rms_norm_eps": config.norm_eps,
        }
    held = {"intermediate_size": size.neurons, "n_expert": size.experts, "n_expert_per_token": size.passed}
    return plain | stock.keys(replace(config, head_size=size.head_size, **held))


def _class(family: str, heads: int, width: int) -> Stock:
    named = FAMILIES[family]
    return named.undivided if named.undivided is not None and width % heads else named.stock


def loading(config: dict[str, Any]) -> dict[str, str]:
    """What from_pretrained needs in addition, for a model with this config.json: transformers caps scores in its eager
    attention alone, and cannot be told so in a file."""
    return {"attn_implementation": "eager"} if config.get("attn_logit_softcapping") else {}


def loading_arguments(config: dict[str, Any]) -> str:
    """All that from_pretrained needs after the folder's name, as it is written in Python."""
    trust = ", trust_remote_code=True" if "auto_map" in config else ""
    return trust + "".join(f', {key}="{value}"' for key, value in loading(config).items())


def caveat(config: dict[str, Any]) -> str:
    """What to know before transformers loads a model with this config.json, or saves it again; empty where there is
    nothing."""
    if loading(config):
        return "Only transformers' eager attention computes the soft caps of attention scores: load it as above."
    share = config.get("rotary_pct", 0.25)
    if share == 0.25:
        return ""
    return (
        f"transformers 5 before 5.9 forgets `rotary_pct` when it saves a GPT-NeoX model, and takes 0.25 instead of "
        f"{share:.6g} from then on: save with another version, or write it into config.json again."
    )


def _rope(model: GPT, target: Target, family: str) -> dict[str, Any]:
    """The rotary positions, given twice: transformers 5 reads `rope_parameters`, and 4 the keys next to it. Version 5
    reads those too, if they are there, so that they must agree."""
    base, scaling = _scaling(model, target)
    parameters = {"rope_theta": base, **(scaling or {"rope_type": "default"})}
    plain: dict[str, Any] = {"rope_parameters": parameters}
    if scaling is not None:
        typed = FAMILIES[family].stock.typed_scaling and scaling["rope_type"] == "linear"
        plain["rope_scaling"] = {"type": "linear", "factor": scaling["factor"]} if typed else scaling
    if family == "gpt_neox":
        share = target.sizes.rotary_share
        parameters["partial_rotary_factor"] = share  # read from 5.9 on; before, transformers knows rotary_pct alone
        return plain | {"rotary_emb_base": base, "rotary_pct": share}
    return plain | {"rope_theta": base}


def _scaling(model: GPT, target: Target) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotary frequencies, and how transformers names the way they are scaled, if they are."""
    base, factor = target.power_law(model.config)
    if (adjusted := model.config.rope_adjustments) is not None:
        if set(adjusted) == {"factor"}:
            return base, {"rope_type": "linear", "factor": adjusted["factor"]}
        return base, {
            "rope_type": "llama3",
            "factor": adjusted["factor"],
            "low_freq_factor": adjusted["low_freq_factor"],
            "high_freq_factor": adjusted["high_freq_factor"],
            "original_max_position_embeddings": adjusted["original_max_seq_len"],
        }
    return base, None if factor == 1 else {"rope_type": "linear", "factor": factor}


def state_dict(model: GPT, target: Target) -> dict[str, Tensor]:
    """Weights under the stock class's names; a tied head is left out."""
    family = family_of(model.config)
    names = family.names
    head = names.head  # next to the body, not in it
    state = ends(model, f"{names.body}.{names.embedding}", f"{names.body}.{names.norm}", head)
    if family.folded.norms:
        state[f"{names.body}.{names.norm}.weight"] -= family.folded.norms
    for number, parts in enumerate(padded(model, target)):
        for name, tensor in flat(family.fuse(parts)).items():
            module, _, kind = name.rpartition(".")
            if module.endswith("norm") and family.folded.norms:
                tensor = tensor - family.folded.norms
            state[f"{names.body}.layers.{number}.{names.module(module)}.{kind}"] = tensor
    return state


def ends(model: GPT, embedding: str, norm: str, head: str) -> dict[str, Tensor]:
    """Embedding, last norm and head under these names, without the vocabulary's padding rows; a tied head is left
    out."""
    rows = model.config.vocab_size
    state = {f"{embedding}.weight": model.transformer.wte.weight.detach()[:rows].clone()}
    state |= {f"{norm}.{kind}": tensor.detach().clone() for kind, tensor in model.transformer.ln_f.named_parameters()}
    for kind, tensor in model.lm_head.named_parameters():
        if kind == "bias" or not is_tied(model):
            state[f"{head}.{kind}"] = tensor.detach()[:rows].clone()
    return state
