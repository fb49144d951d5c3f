"""Chunks of tokens that pass through teacher and student layer by layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from litgpt import GPT
from torch import Tensor, nn

from pipeline.models.positions import is_windowed, turns, window_mask


@dataclass
class Chunk:
    """The residual streams of some blocks: the teacher's `theirs` (B, T, E) and the student's `ours` (B, T, e)."""

    theirs: Tensor
    ours: Tensor
    held_out: bool
    features: list[Tensor] = field(default_factory=list)  # inputs of the projections that are being refitted


def _positions(model: GPT, layer: int, length: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """cos and sin (1, length, rotary entries) of one layer, and its mask, None where it sees everything before."""
    cos, sin = (turns(model, layer, table[None, :length]) for table in (model.cos, model.sin))
    return cos, sin, window_mask(model, length) if is_windowed(model, layer) else None


def attention(model: GPT, layer: int, x: Tensor) -> Tensor:
    """What the attention of a layer adds to the stream x (B, T, width)."""
    block = model.transformer.h[layer]
    return block.post_attention_norm(block.attn(block.norm_1(x), *_positions(model, layer, x.size(1))))


def mlp(model: GPT, layer: int, x: Tensor) -> Tensor:
    """What the MLP of a layer adds to the stream x (B, T, width)."""
    block = model.transformer.h[layer]
    return block.post_mlp_norm(block.mlp(block.norm_2(x)))


def through(model: GPT, layer: int, x: Tensor) -> Tensor:
    """The stream after a layer."""
    return model.transformer.h[layer](x, *_positions(model, layer, x.size(1)))


@contextmanager
def captured(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the inputs of these modules, in the order in which they run."""
    inputs: list[Tensor] = []
    handles = [each.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for each in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
