"""The one shape that all blocks of a model can share, and blocks grown to it by exact zeros."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from litgpt import GPT, Config
from torch import Tensor

from pipeline.errors import SprigError, reason
from pipeline.models.blocks import Sizes, flat, held_pairs, joined, sizes, weights
from pipeline.models.families import architecture_of, is_power_law, is_tied
from pipeline.models.student import assemble, build
from pipeline.subnetwork.exported import shortest_run
from pipeline.subnetwork.value import SubNetwork


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

    def power_law(self, config: Config) -> tuple[float, float]:
        """The base of the pairs' own frequencies, and what divides the positions: the run first, first + step, ... of m
        pairs of frequencies B**(-2i/n) is base B**(step*m/(n/2)) and positions divided by B**(first/(n/2))."""
        base, pairs = float(config.rope_base), self.sizes.rotary // 2
        factor = float(config.rope_condense_ratio) * base ** (self.first / self.total)
        return base ** (self.step * pairs / self.total), factor


def common(model: GPT, cure: str) -> Target:
    """The smallest sizes that hold every block.

    A block may keep fewer pairs than another: each pair goes to the place of its own frequency.

    Raises:
        SprigError: there are none; says why, and the `cure`.
    """
    architecture = architecture_of(model.config, tied=False)
    held = held_pairs(model)
    if held is None:
        raise SprigError(
            f"The head sizes of {architecture.name} change its rotary frequencies from layer to layer: {cure}."
        )
    first, step, count = _run(model.config, *held, cure)
    blocks = [sizes(block) for block in model.transformer.h]
    head_size = 2 * count + max(block.head_size - block.rotary for block in blocks)
    if architecture.qk_norm and any(block.head_size != head_size for block in blocks):
        found = " and ".join(map(str, sorted({block.head_size for block in blocks})))
        over = "all heads together" if architecture.qk_norm_over_heads else "each head"
        raise SprigError(
            f"{architecture.name} norms q and k over {over}, and a stock class would pad its heads of {found} "
            f"entries to {head_size}, which changes the norms: {cure}."
        )
    if architecture.qk_norm_over_heads and len({(block.groups, block.heads) for block in blocks}) > 1:
        raise SprigError(
            f"{architecture.name} norms q and k over all heads, whose number is not the same in all layers, and "
            f"padding would change the norm: {cure}."
        )
    experts = {(block.experts, block.passed) for block in blocks}
    if len(experts) > 1:
        raise SprigError(
            f"The layers of {architecture.name} differ in their experts, and zeros cannot keep tokens away from an "
            f"added expert: {cure}."
        )
    groups, heads, neurons = (max(getattr(each, name) for each in blocks) for name in ("groups", "heads", "neurons"))
    return Target(Sizes(groups, heads, head_size, 2 * count, neurons, *experts.pop()), first, step, held[0])


def uniform(model: GPT) -> GPT:
    """The layer-wise model as a stock litgpt one of the same logits, so that it can be cut as a teacher.

    Its zeros count among its parameters. On the meta device it is a shape alone.

    Raises:
        SprigError: no uniform model can hold its blocks.
    """
    to = common(model, "take another student, or its own teacher, as teacher")
    base, factor = to.power_law(model.config)
    config = replace(
        model.config,
        n_head=to.sizes.groups * to.sizes.heads,
        n_query_groups=to.sizes.groups,
        head_size=to.sizes.head_size,
        intermediate_size=to.sizes.neurons,
        n_expert=to.sizes.experts,
        n_expert_per_token=to.sizes.passed,
        rotary_percentage=to.sizes.rotary_share,
        rope_base=base,
        rope_condense_ratio=factor,
    )
    state = {name: tensor for name, tensor in model.state_dict().items() if ".h." not in name}
    for number, parts in enumerate(padded(model, to)):
        for name, tensor in joined(flat(parts)).items():
            state[f"transformer.h.{number}.{name}"] = tensor
    return assemble(config, None, is_tied(model), state)


def uniform_config(config: Config, sub: SubNetwork | None, file: Path) -> Config:
    """The configuration that `uniform` gives a student of this `config`; its own where its layers are alike (None).

    Raises:
        SprigError: no uniform model can hold it, or `file`, which both are from, contradicts itself.
    """
    if sub is None:
        return config
    try:
        return uniform(build(config, sub, tied=False, device="meta")).config
    except SprigError:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AssertionError, AttributeError, ArithmeticError) as error:
        raise SprigError(f"{file} names no sub-network of its model ({reason(error)}): export it again.") from None


def _run(config: Config, total: int, held: list[range], cure: str) -> tuple[int, int, int]:
    """The shortest arithmetic run (first, step, count) that holds every block's pairs."""
    adjusted = not is_power_law(config)
    if adjusted and config.rope_condense_ratio != 1:
        raise SprigError(f"{config.name} has rotary frequencies that are both adjusted and condensed: {cure}.")
    if adjusted:
        return 0, 1, total  # no power law: a stock class names all of them or none
    return shortest_run(held)


def padded(model: GPT, to: Target) -> Iterator[dict[str, Tensor]]:
    """Each block's weights (see blocks.weights) in the sizes of a target that holds them."""
    found = held_pairs(model)
    assert found is not None  # or there would be no target, see common
    _, held = found
    for block, run in zip(model.transformer.h, held, strict=True):
        yield _pad(weights(block), sizes(block), run, to)


def _pad(parts: dict[str, Tensor], block: Sizes, held: range, to: Target) -> dict[str, Tensor]:
    """A block's weights (see blocks.weights) in the target's sizes; zeros for what it does not have.

    Zero heads and neurons add nothing to the residual stream, zero pairs nothing to the scores. The
    target's class divides scores by sqrt(target's head size): the difference goes into q.
    """
    size, half = to.sizes, to.sizes.rotary // 2
    slots = [to.pairs.index(pair) for pair in held]
    free = range(size.rotary, size.rotary + block.head_size - block.rotary)
    places = torch.tensor([*slots, *(slot + half for slot in slots), *free])
    padded = {}
    for name, tensor in parts.items():
        *_, module, kind = name.split(".")  # an expert's parts are padded as those of one MLP
        if module in ("q", "k", "v"):
            heads = size.heads if module == "q" else 1
            entries = torch.arange(block.head_size) if module == "v" else places
            grown = tensor.new_zeros(size.groups, heads, size.head_size, *tensor.shape[3:])
            factor = math.sqrt(size.head_size / block.head_size) if module == "q" else 1
            grown[: block.groups, : tensor.shape[1], entries] = tensor * factor
        elif name == "out.weight":
            grown = tensor.new_zeros(len(tensor), size.groups, size.heads, size.head_size)
            grown[:, : block.groups, : block.heads, : block.head_size] = tensor
        elif module in ("gate", "up") or (module, kind) == ("down", "weight"):
            shape = (len(tensor), size.neurons) if module == "down" else (size.neurons, *tensor.shape[1:])
            grown = tensor.new_zeros(shape)
            grown[tuple(slice(each) for each in tensor.shape)] = tensor
        else:
            grown = tensor
        padded[name] = grown
    return padded
