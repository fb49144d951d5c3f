"""Closed-form recovery: refits a cut student's projections to the teacher's activations, without training.

docs/concepts.md describes the method. The loop over layers is here; layers.py refits one layer, streams.py keeps the
residual streams, and ridge.py solves the regressions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from litgpt import GPT
from torch import Tensor, nn

from pipeline.errors import SprigError
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.layers import Layers, Refit
from pipeline.models.recovery.mixture import MixtureLayers
from pipeline.models.recovery.residual import Chunk
from pipeline.models.recovery.ridge import Reduce
from pipeline.models.student import embed
from pipeline.progress import Progress
from pipeline.subnetwork.selection import Selection
from pipeline.subnetwork.value import SubNetwork


@dataclass(frozen=True)
class Settings:
    """Settings of a recovery.

    The prior is that the cut weights are right. `ridges` are candidates for its strength, as a number of tokens that
    count for it. `held_out` is the share of blocks that decides between the candidates and checks the result. `batch`
    is in blocks per forward pass.
    """

    ridges: tuple[float, ...] = (3_000.0,)
    held_out: float = 0.125
    batch: int = 8
    precision: str = "fp32"


@dataclass(frozen=True)
class RefittedLayer:
    """A finished layer: the weights of its block, by name, and a record of what was refitted."""

    weights: dict[str, Tensor]
    refits: tuple[Refit, ...]


@dataclass(frozen=True)
class Report:
    """The result of a recovery.

    `tokens` counts all tokens used, including held-out ones. `before` and `after` are the student's losses on the
    held-out blocks, in nats per token. If recovery did not lower the loss, `helped` is false and the student keeps its
    cut weights.
    """

    tokens: int
    held_out_tokens: int
    before: float
    after: float
    helped: bool
    refits: tuple[Refit, ...]


def held_out_count(count: int, share: float) -> int:
    """How many of `count` blocks are held out: at least one, and at least one is left to fit.

    Raises:
        SprigError: fewer than two blocks.
    """
    if count < 2:
        raise SprigError(
            f"Recovery needs at least 2 blocks of text, one to fit and one held out, and has {count}: give it more."
        )
    return min(max(1, round(count * share)), count - 1)


def held_out_blocks(count: int, share: float) -> list[bool]:
    """Marks the held-out ones of `count` blocks, evenly spread. Raises as `held_out_count`."""
    held = held_out_count(count, share)
    chosen = {(2 * number + 1) * count // (2 * held) for number in range(held)}
    return [number in chosen for number in range(count)]


@torch.no_grad()
def recover(
    teacher: GPT,
    student: GPT,
    sub: SubNetwork,
    selection: Selection,
    blocks: Tensor,
    settings: Settings,
    *,
    finished: Sequence[RefittedLayer] = (),
    on_layer: Callable[[int, RefittedLayer], None] = lambda number, layer: None,
    share: tuple[int, int] = (0, 1),
    reduce: Reduce | None = None,
) -> Report:
    """Refits the projections of a cut student in place, on `blocks` of text (n, T + 1), on the student's device.

    Goes through the layers in order and refits the output projections by ridge regression towards the cut weights. The
    features are the student's activations; the target is the teacher's residual stream on the kept embedding entries. A
    layer in front of dropped layers also stands in for them. If the width is cut, the input projections are refitted
    first, to the teacher's pre-activations. A projection keeps its cut weights if no ridge lowers its held-out error,
    and all projections keep them if the student's held-out loss does not fall.

    Args:
        finished: finished layers of an interrupted recovery, to resume it with bit-identical results; `student` must be
            the cut student.
        on_layer: receives the number of each finished layer, and the layer.
        share: (rank, ranks): each rank works on its share of the blocks, and all get the same student.
        reduce: sums a tensor over all ranks.

    Raises:
        SprigError: fewer than two blocks, a ridge that is not positive, a Gram matrix that stays singular with every
            ridge, or activations that are not finite.
    """
    if not settings.ridges or min(settings.ridges) <= 0:
        raise SprigError(f"recover.ridges={list(settings.ridges)} must be positive numbers of tokens.")
    device, (rank, ranks) = student.transformer.wte.weight.device, share
    held = torch.tensor(held_out_blocks(len(blocks), settings.held_out))
    fitted, checked = blocks[~held][rank::ranks], blocks[held][rank::ranks]
    before = _loss(student, checked, settings, reduce)
    original = [_weights(block) for block in student.transformer.h]
    chunks = []
    for part, held_out in ((fitted, False), (checked, True)):
        for tokens in part[:, :-1].to(device).split(settings.batch):
            if len(tokens):
                chunks.append(Chunk(embed(teacher, tokens), embed(student, tokens), held_out))
    kind = MixtureLayers if teacher.config.n_expert else Layers
    layers = kind(teacher, student, sub, selection, chunks, settings.ridges, settings.precision, reduce)
    refits: list[Refit] = []
    with Progress("recover", total=sub.n_layer, unit="layers", start=len(finished)) as progress:
        for number, block in enumerate(student.transformer.h):
            if number < len(finished):
                block.load_state_dict(finished[number].weights)
                layers.skip(number)
                refits += finished[number].refits
                continue
            made = layers.refit(number)
            refits += made
            on_layer(number, RefittedLayer(_weights(block), made))
            progress.advance()
    after = _loss(student, checked, settings, reduce)
    helped = after < before
    if not helped:
        for block, weights in zip(student.transformer.h, original, strict=True):
            block.load_state_dict(weights)
    return Report(blocks[:, 1:].numel(), blocks[held][:, 1:].numel(), before, after, helped, tuple(refits))


def _weights(block: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in block.state_dict().items()}


def _loss(student: GPT, blocks: Tensor, settings: Settings, reduce: Reduce | None) -> float:
    tokens = blocks[:, 1:].numel()
    nll = mean_nll(student, blocks, settings.batch, settings.precision) if tokens else 0.0
    sums = torch.tensor([nll * tokens, tokens], dtype=torch.float64, device=student.transformer.wte.weight.device)
    total, count = (reduce(sums) if reduce else sums).tolist()
    return total / count
