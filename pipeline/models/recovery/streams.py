"""Chunks of calibration tokens that pass through teacher and student layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from litgpt import GPT
from torch import Tensor, nn

from pipeline.models.student import LayerwiseGPT


@dataclass
class Chunk:
    """The residual streams of some blocks: the teacher's `theirs` (B, T, E) and the student's `ours` (B, T, e)."""

    theirs: Tensor
    ours: Tensor
    held_out: bool
    features: list[Tensor] = field(default_factory=list)  # inputs of the projections that are being refitted


def rotary(model: GPT, layer: int, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin (1, length, rotary entries) of one layer."""
    entries = model.rope_columns[layer] if isinstance(model, LayerwiseGPT) else slice(None)
    return model.cos[None, :length, entries], model.sin[None, :length, entries]


def attention(model: GPT, layer: int, x: Tensor) -> Tensor:
    """What the attention of a layer adds to the stream x (B, T, width)."""
    block = model.transformer.h[layer]
    return block.attn(block.norm_1(x), *rotary(model, layer, x.size(1)))


def mlp(model: GPT, layer: int, x: Tensor) -> Tensor:
    """What the MLP of a layer adds to the stream x (B, T, width)."""
    block = model.transformer.h[layer]
    return block.mlp(block.norm_2(x))


def through(model: GPT, layer: int, x: Tensor) -> Tensor:
    """The stream after a layer."""
    return model.transformer.h[layer](x, *rotary(model, layer, x.size(1)))


@contextmanager
def captured(projections: list[nn.Linear]) -> Iterator[list[Tensor]]:
    """Collects the inputs of these projections, in the order in which they run."""
    inputs: list[Tensor] = []
    handles = [each.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for each in projections]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
