"""Two compensations of a cut, from the teacher's activations alone, layer by layer and without folding dropped layers.

`one_shot` is a ridge regression on the kept entries (as GRAIL, arXiv 2602.23795). `bias_only` adds the mean of what the
dropped entries wrote (as FLAP, arXiv 2312.11983), which gives every output projection a bias.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from litgpt import GPT
from torch import Tensor, nn

from pipeline.models.extraction import cut
from pipeline.models.recovery.recover import Settings
from pipeline.models.recovery.residual import attention, captured, mlp, through
from pipeline.models.recovery.ridge import Regression
from pipeline.subnetwork.selection import Selection
from pipeline.subnetwork.value import SubNetwork

SETTINGS = Settings()


@dataclass(frozen=True)
class Case:
    teacher: GPT
    sub: SubNetwork
    selection: Selection

    def student(self) -> GPT:
        return cut(self.teacher, self.sub, self.selection)


@torch.no_grad()
def compensated(case: Case, blocks: Tensor, correct: Callable[[nn.Linear, list[tuple[Tensor, Tensor]]], None]) -> GPT:
    """The cut student with each output projection corrected, given pairs of features (B, T, F) and errors (B, T, e) on
    the kept embedding entries, one pair a batch, that its layer has on the teacher's stream (B, T, E). Without the
    parallel residual."""
    student, kept = case.student(), torch.from_numpy(case.selection.embedding)
    streams = [case.teacher.transformer.wte(tokens) for tokens in blocks[:, :-1].split(SETTINGS.batch)]
    for layer in range(max(case.sub.layers) + 1):
        if layer not in case.sub.layers:
            streams = [through(case.teacher, layer, x) for x in streams]
            continue
        number = case.sub.layers.index(layer)
        block = student.transformer.h[number]
        for part, projection in ((attention, block.attn.proj), (mlp, block.mlp.proj)):
            pairs, after = [], []
            for x in streams:
                with captured([projection]) as features:
                    ours = part(student, number, x[..., kept])
                theirs = part(case.teacher, layer, x)
                pairs.append((features[0], theirs[..., kept] - ours))
                after.append(x + theirs)
            correct(projection, pairs)
            streams = after
    return student


def one_shot(projection: nn.Linear, pairs: list[tuple[Tensor, Tensor]]) -> None:
    outputs, features = projection.weight.shape
    regression = Regression(features, outputs, False, projection.weight.device, None)
    for x, errors in pairs:
        regression.add(x, errors, torch.ones_like(errors[..., 0]), held_out=False)
    x, errors = pairs[-1]
    regression.add(x, errors, torch.ones_like(errors[..., 0]), held_out=True)
    delta = regression.solve(SETTINGS.ridges, "a projection").delta
    if delta is not None:
        projection.weight += delta.T.float()


def bias_only(projection: nn.Linear, pairs: list[tuple[Tensor, Tensor]]) -> None:
    errors = torch.cat([error.flatten(0, 1) for _, error in pairs])
    projection.bias = nn.Parameter(errors.mean(0))
