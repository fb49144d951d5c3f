"""A student's blocks as an export needs them: their sizes, their rotary pairs, and their weights with heads as axes."""

from dataclasses import dataclass

import torch
from litgpt import GPT
from litgpt.model import Block
from torch import Tensor

from pipeline.models.families import architecture_of
from pipeline.models.student import LayerwiseGPT
from pipeline.subnetwork.selection import rotary_run


@dataclass(frozen=True)
class Sizes:
    """One block's: query groups, query heads of a group, entries of a head, how many of them rotate, MLP neurons."""

    groups: int
    heads: int
    head_size: int
    rotary: int
    neurons: int


def sizes(block: Block) -> Sizes:
    config = block.config
    return Sizes(
        config.n_query_groups,
        config.n_head // config.n_query_groups,
        config.head_size,
        config.rope_n_elem,
        config.intermediate_size,
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


def frequencies(model: GPT) -> dict[int, list[float]]:
    """Head size to the radians a position of each of its pairs: read off the model's tables, so that no formula can
    differ from the model's. Every frequency is at most 1, so one position turns no pair around."""
    found = {}
    for number, block in enumerate(model.transformer.h):
        columns = model.rope_columns[number] if isinstance(model, LayerwiseGPT) else slice(None)
        angles = torch.atan2(model.sin[1, columns].double(), model.cos[1, columns].double())
        found[block.config.head_size] = angles[: block.config.rope_n_elem // 2].tolist()
    return found


def weights(block: Block) -> dict[str, Tensor]:
    """The block's weights, by part. Shapes: q (groups, heads, head_size, width), k and v (groups, 1, head_size,
    width), their biases without the last axis, out.weight (width, groups, heads, head_size); the others as in litgpt.
    """
    shape, attention = sizes(block), block.attn
    rows = shape.groups * shape.head_size
    parts = {}
    for kind, tensor in attention.qkv.named_parameters():
        split = tensor.split([shape.heads * rows, rows, rows])
        for name, part, heads in zip("qkv", split, (shape.heads, 1, 1), strict=True):
            # Cloned, because safetensors takes no views into a larger tensor.
            parts[f"{name}.{kind}"] = part.unflatten(0, (shape.groups, heads, shape.head_size)).clone()
    for kind, tensor in attention.proj.named_parameters():
        each = (shape.groups, shape.heads, shape.head_size)
        parts[f"out.{kind}"] = tensor.unflatten(1, each) if kind == "weight" else tensor
    # litgpt's fc_1 goes through the activation and gates fc_2.
    renamed = {"fc_1": "gate", "fc_2": "up", "fc": "up", "proj": "down"}
    for name, tensor in block.mlp.named_parameters():
        module, kind = name.split(".")
        parts[f"{renamed[module]}.{kind}"] = tensor
    modules = {
        "q_norm": attention.norm_q,
        "k_norm": attention.norm_k,
        "attention_norm": block.norm_1,
        "mlp_norm": block.norm_2,
    }
    for name, module in modules.items():
        if module is not None:
            parts |= {f"{name}.{kind}": tensor for kind, tensor in module.named_parameters()}
    return {name: tensor.detach() for name, tensor in parts.items()}
