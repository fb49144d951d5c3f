"""A model's blocks taken apart, for other classes and other sizes: their sizes, their rotary pairs, and their weights
with heads as axes."""

import re
from dataclasses import dataclass

import torch
from litgpt import GPT
from litgpt.model import Block
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models.families import architecture_of, rotary_share
from pipeline.models.positions import turns
from pipeline.models.student import LayerwiseGPT
from pipeline.subnetwork.selection import rotary_run

# litgpt's modules but for qkv, and their names here. fc_1 goes through the activation and gates fc_2.
_PARTS = {
    "norm_1": "attention_norm",
    "norm_2": "mlp_norm",
    "post_attention_norm": "attention_post_norm",
    "post_mlp_norm": "mlp_post_norm",
    "attn.norm_q": "q_norm",
    "attn.norm_k": "k_norm",
    "attn.proj": "out",
    "mlp.fc_1": "gate",
    "mlp.fc_2": "up",
    "mlp.fc": "up",
    "mlp.proj": "down",
    "mlp.gate": "router",
}
_EXPERT = re.compile(r"mlp\.(experts\.\d+)\.(.+)")  # a part of an expert is called experts.3.up


@dataclass(frozen=True)
class Sizes:
    """One block's: query groups, query heads of a group, entries of a head, how many of them rotate, MLP neurons; of a
    mixture also its experts and those that a token passes, otherwise 0."""

    groups: int
    heads: int
    head_size: int
    rotary: int
    neurons: int
    experts: int = 0
    passed: int = 0

    @property
    def rotary_share(self) -> float:
        return rotary_share(self.rotary, self.head_size)


def sizes(block: Block) -> Sizes:
    config = block.config
    return Sizes(
        config.n_query_groups,
        config.n_head // config.n_query_groups,
        config.head_size,
        config.rope_n_elem,
        config.intermediate_size,
        config.n_expert,
        config.n_expert_per_token if config.n_expert else 0,
    )


def held_pairs(model: GPT) -> tuple[int, list[range]] | None:
    """How many rotary pairs the power law of `model.config` has, and which of them each block holds.

    None where blocks differ in their power law: `head_pairs=plain` gives every head size another one.
    """
    shapes = [sizes(block) for block in model.transformer.h]
    if isinstance(model, LayerwiseGPT) and model.sub.head_pairs != "plain":
        architecture = architecture_of(model.config, tied=False)
        runs = [rotary_run(architecture, shape.head_size, model.sub.head_pairs) for shape in shapes]
        return architecture.rope_entries // 2, [range(o, o + step * count, step) for o, step, count in runs]
    if len({shape.head_size for shape in shapes}) > 1:
        return None
    pairs = shapes[0].rotary // 2
    return pairs, [range(pairs)] * len(shapes)


def rope_name(model: GPT, number: int) -> str:
    """A name for the frequencies of a layer: its head size, and whether it has the local base or turns nothing."""
    size = str(model.transformer.h[number].config.head_size)
    indices = model.config.rope_indices
    if indices is None or not indices[number]:
        return size
    return f"{size} {'still' if model.config.rope_local_base_freq is None else 'local'}"


def frequencies(model: GPT) -> dict[str, list[float]]:
    """By their name, the radians a position of each pair: read off the model's tables, so that no formula can
    differ from the model's. Every frequency is at most 1, so one position turns no pair around."""
    found = {}
    for number, block in enumerate(model.transformer.h):
        sin, cos = (turns(model, number, table[None, 1])[0].double() for table in (model.sin, model.cos))
        found[rope_name(model, number)] = torch.atan2(sin, cos)[: block.config.rope_n_elem // 2].tolist()
    return found


def weights(block: Block) -> dict[str, Tensor]:
    """The block's weights, by part. Shapes: q (groups, heads, head_size, width), k and v (groups, 1, head_size,
    width), their biases without the last axis, out.weight (width, groups, heads, head_size); the others as in litgpt.
    """
    shape = sizes(block)
    rows = shape.groups * shape.head_size
    parts = {}
    for name, parameter in block.named_parameters():
        module, _, kind = name.rpartition(".")
        tensor = parameter.detach()
        if module == "attn.qkv":
            split = tensor.split([shape.heads * rows, rows, rows])
            for part, each, heads in zip("qkv", split, (shape.heads, 1, 1), strict=True):
                # Cloned, because safetensors takes no views into a larger tensor.
                parts[f"{part}.{kind}"] = each.unflatten(0, (shape.groups, heads, shape.head_size)).clone()
        elif name == "attn.proj.weight":
            parts["out.weight"] = tensor.unflatten(1, (shape.groups, shape.heads, shape.head_size))
        else:
            expert = _EXPERT.fullmatch(module)
            part = f"{expert[1]}.{_PARTS[f'mlp.{expert[2]}']}" if expert else _PARTS[module]
            parts[f"{part}.{kind}"] = tensor
    return parts


def flat(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Heads and their entries on one axis again."""
    flattened = {}
    for name, tensor in parts.items():
        if name.partition(".")[0] in ("q", "k", "v"):
            tensor = tensor.flatten(0, 2)
        elif name == "out.weight":
            tensor = tensor.flatten(1)
        flattened[name] = tensor.contiguous()
    return flattened


def joined(parts: dict[str, Tensor], source: str = "the block") -> dict[str, Tensor]:
    """Flat parts under litgpt's names, as a block's state_dict has them.

    Raises:
        SprigError: of q, k and v one is missing; names it and the `source`.
    """
    gated = any(name.endswith("gate.weight") for name in parts)
    places = {part: module for module, part in _PARTS.items() if module != ("mlp.fc" if gated else "mlp.fc_2")}
    state = {}
    for name, tensor in parts.items():
        *expert, part, kind = name.split(".")
        if part not in ("q", "k", "v"):
            module = places[part].replace("mlp.", f"mlp.{'.'.join(expert)}.") if expert else places[part]
            state[f"{module}.{kind}"] = tensor
            continue
        if missing := [each for each in "qkv" if f"{each}.{kind}" not in parts]:
            raise SprigError(f"{source} has no {kind} of {missing[0]}: fetch the model's weights again.")
        if part == "q":
            state[f"attn.qkv.{kind}"] = torch.cat([parts[f"{each}.{kind}"] for each in "qkv"])
    return state
