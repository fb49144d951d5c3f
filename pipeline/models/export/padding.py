"""The one shape that all blocks of a stock class must share, and blocks grown to it by exact zeros."""

import math
from dataclasses import dataclass

import torch
from litgpt import GPT, Config
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models.export.blocks import Sizes, held_pairs, sizes
from pipeline.models.families import architecture_of
from pipeline.subnetwork.architecture import Architecture

CURE = "use export.form=own"


@dataclass(frozen=True)
class Target:
    """The common sizes. Their rotary pairs are the run first, first + step, ... of the `total` pairs of the power law
    in the model's config."""

    sizes: Sizes
    first: int
    step: int
    total: int

    @property
    def pairs(self) -> range:
        return range(self.first, self.first + self.step * (self.sizes.rotary // 2), self.step)


def target(model: GPT) -> Target:
    """The smallest sizes of the model's stock class that hold every block.

    A block may keep fewer pairs than another: each pair goes to the place of its own frequency.

    Raises:
        SprigError: there are none; says why.
    """
    architecture = architecture_of(model.config, tied=False)
    name = architecture.name
    if architecture.lm_head_bias:
        raise SprigError(f"{name} has a bias in its head, and no stock class has: {CURE}.")
    if architecture.family != "gpt_neox" and architecture.rotary_percentage != 1:
        raise SprigError(
            f"{name} rotates {architecture.rotary_percentage} of a head's entries, and stock {architecture.family} "
            f"all of them: {CURE}."
        )
    held = held_pairs(model)
    if held is None:
        raise SprigError(f"The head sizes of {name} change its rotary frequencies from layer to layer: {CURE}.")
    first, step, count = _run(model.config, *held)
    blocks = [sizes(block) for block in model.transformer.h]
    head_size = 2 * count + max(block.head_size - block.rotary for block in blocks)
    groups, heads = max(block.groups for block in blocks), max(block.heads for block in blocks)
    if architecture.family == "gpt_neox":
        groups, head_size = _neox_heads(architecture, groups, heads, head_size)
    if architecture.qk_norm and any(block.head_size != head_size for block in blocks):
        raise SprigError(
            f"{name} norms q and k over heads whose size is not the same in all layers, and a norm over padding is "
            f"another one: {CURE}."
        )
    common = Sizes(groups, heads, head_size, 2 * count, max(block.neurons for block in blocks))
    return Target(common, first, step, held[0])


def _run(config: Config, total: int, held: list[range]) -> tuple[int, int, int]:
    """The shortest arithmetic run (first, step, count) that holds every block's pairs."""
    first, last = min(run[0] for run in held), max(run[-1] for run in held)
    adjusted = config.rope_adjustments is not None
    if adjusted and config.rope_condense_ratio != 1:
        raise SprigError(f"{config.name} has rotary frequencies that are both adjusted and condensed: {CURE}.")
    if adjusted:
        return 0, 1, total  # no power law: a stock class names all of them or none
    step = math.gcd(*(place - first for run in held for place in run)) or 1
    return first, step, (last - first) // step + 1


def _neox_heads(architecture: Architecture, groups: int, heads: int, head_size: int) -> tuple[int, int]:
    """Stock GPT-NeoX has no head size of its own: it is width / heads."""
    width = architecture.n_embd
    fits = [size for size in range(head_size, width // groups + 1) if width % size == 0]
    if heads > 1 or not fits:
        raise SprigError(
            f"{architecture.name} needs {groups} x {heads} heads of {head_size}, but stock gpt_neox has heads x head "
            f"size = width, {width} here: {CURE}."
        )
    return width // fits[0], fits[0]


def pad(parts: dict[str, Tensor], block: Sizes, held: range, to: Target) -> dict[str, Tensor]:
    """A block's weights (see blocks.weights) in the target's sizes; zeros for what it does not have.

    Zero heads and neurons add nothing to the residual stream, zero pairs nothing to the scores. The stock class
    divides scores by sqrt(target's head size): the difference goes into q.
    """
    size, half = to.sizes, to.sizes.rotary // 2
    slots = [to.pairs.index(pair) for pair in held]
    free = range(size.rotary, size.rotary + block.head_size - block.rotary)
    places = torch.tensor([*slots, *(slot + half for slot in slots), *free])
    padded = {}
    for name, tensor in parts.items():
        module = name.partition(".")[0]
        if module in ("q", "k", "v"):
            heads = size.heads if module == "q" else 1
            entries = torch.arange(block.head_size) if module == "v" else places
            grown = tensor.new_zeros(size.groups, heads, size.head_size, *tensor.shape[3:])
            factor = math.sqrt(size.head_size / block.head_size) if module == "q" else 1
            grown[: block.groups, : tensor.shape[1], entries] = tensor * factor
        elif name == "out.weight":
            grown = tensor.new_zeros(len(tensor), size.groups, size.heads, size.head_size)
            grown[:, : block.groups, : block.heads, : block.head_size] = tensor
        elif module in ("gate", "up") or name == "down.weight":
            shape = (len(tensor), size.neurons) if module == "down" else (size.neurons, *tensor.shape[1:])
            grown = tensor.new_zeros(shape)
            grown[tuple(slice(each) for each in tensor.shape)] = tensor
        else:
            grown = tensor
        padded[name] = grown
    return padded
