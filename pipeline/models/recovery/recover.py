"""Closed-form recovery of a cut student: its projections refitted to the teacher's activations, nothing trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from litgpt import GPT
from torch import Tensor, nn

from pipeline.errors import SprigError
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.layers import Layers, Refit
from pipeline.models.recovery.ridge import Reduce
from pipeline.models.recovery.streams import Chunk
from pipeline.progress import Progress
from pipeline.subnetwork.selection import Selection
from pipeline.subnetwork.value import SubNetwork


@dataclass(frozen=True)
class Settings:
    """`ridges` are the candidates for the strength of the prior, in tokens; `held_out` is the share of blocks that
    chooses among them and checks the result; `batch` is in blocks a forward pass."""

    ridges: tuple[float, ...] = (1_500.0,)
    held_out: float = 0.125
    batch: int = 8
    precision: str = "fp32"


@dataclass(frozen=True)
class RefittedLayer:
    """A finished layer: the block's weights by their names in it, and what was refitted."""

    weights: dict[str, Tensor]
    refits: tuple[Refit, ...]


@dataclass(frozen=True)
class Report:
    """`tokens` were used, held-out ones included. The losses are the student's on the held-out blocks, in nats a token,
    before and after; where recovery did not lower it the student is the cut one (`helped` is false)."""

    tokens: int
    held_out_tokens: int
    before: float
    after: float
    helped: bool
    refits: tuple[Refit, ...]


def held_out_blocks(count: int, share: float) -> list[bool]:
    """Which of `count` blocks are held out: evenly spread, at least one, and at least one is left to fit.

    Raises:
        SprigError: fewer than two blocks.
    """
    if count < 2:
        raise SprigError(f"Recovery has {count} calibration blocks: give it at least 2, one to fit and one held out.")
    held = min(max(1, round(count * share)), count - 1)
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
    """Refits the projections of a cut student in place, on calibration `blocks` (n, T + 1), on its device.

    Layer by layer, the output projections are refitted by ridge regression towards the cut weights, from the student's
    own activations to the teacher's residual stream on the kept embedding entries; a layer in front of dropped ones
    takes them over. Where the width is cut the input projections are refitted before, to the teacher's pre-activations.
    A projection whose held-out error no ridge lowers keeps its cut weights; if the held-out loss does not fall in the
    end, the student does as a whole.

    `on_layer` receives each finished layer; passing those of an interrupted recovery as `finished`, with the cut
    student, resumes it with the same result to the bit. Of several ranks, `share` = (rank, ranks), each works on its
    share of the blocks; `reduce` adds up a tensor over them all, and every rank gets the same student.

    Raises:
        SprigError: fewer than two blocks, a ridge that is not positive, a Gram matrix that no ridge makes regular, or
            activations that are not finite.
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
                chunks.append(Chunk(teacher.transformer.wte(tokens), student.transformer.wte(tokens), held_out))
    layers = Layers(teacher, student, sub, selection, chunks, settings.ridges, settings.precision, reduce)
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
