"""Recovery on the embedded teacher: perplexity, cost and memory by calibration tokens, next to other compensations.

The sub-network is the one that importance chooses at the quickstart's bin: 17 of 30 layers, MLP 832 of 1,536, full
width. The other two compensate the cut from the teacher's activations alone, layer by layer and without folding dropped
layers: `one-shot` by ridge regression on the kept entries (as GRAIL, arXiv 2602.23795), `bias only` by the mean of what
the dropped entries wrote (as FLAP, arXiv 2312.11983), which gives every output projection a bias.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from litgpt import GPT
from torch import Tensor, nn

import pipeline
from benchmarks.harness import arguments, peak_memory, report
from benchmarks.searching import prepared
from pipeline.models.extraction import cut
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.costs import flops
from pipeline.models.recovery.recover import Settings, recover
from pipeline.models.recovery.ridge import Regression
from pipeline.models.recovery.streams import attention, captured, mlp, through
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import flops_per_token, layers_flops
from pipeline.subnetwork.selection import Ordering, Selection, select
from pipeline.subnetwork.value import LayerGenes, SubNetwork

COUNTS, COMPARED, VALIDATION = (512, 4_096, 16_384, 65_536), 4_096, 16
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
    """The cut student with each output projection corrected, given pairs of features (B, T, F) and errors (B, T, E),
    one pair a batch, that its layer has on the teacher's stream. At full width, without the parallel residual."""
    student = case.student()
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
                    ours = part(student, number, x)
                theirs = part(case.teacher, layer, x)
                pairs.append((features[0], theirs - ours))
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


def importance_alone(context: Context, ordering: Ordering) -> tuple[SubNetwork, Selection]:
    layers = tuple(sorted(int(layer) for layer in ordering.layers[:17]))
    sub = SubNetwork(layers, 576, (LayerGenes(3, 3, 64, 832),) * 17, ordering=ordering.fingerprint)
    return sub, select(sub, context.architecture, ordering)


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    context = prepared(Context(pipeline.compose(["experiment=quickstart", "precision=fp32"]), log=lambda line: None))
    made = roots(context)
    teacher = context.teacher(made.teacher, context.config.teacher)
    case = Case(teacher, *importance_alone(context, order.load(context, made.ordering)))
    length = context.config.data.block_size
    validation = context.evenly(made.tokens, "validation", VALIDATION, "VALIDATION")
    forward = flops_per_token(context.architecture, length=length)
    student = flops_per_token(context.architecture, case.sub, length=length)
    distilled = forward + 3 * student
    rows: list[list[str]] = []
    figures: dict[str, float] = {}

    def measure(name: str, tokens: int, work: Callable[[Tensor], GPT], cost: int) -> None:
        blocks = context.evenly(made.tokens, "train", tokens // length, "COUNTS")
        students: list[GPT] = []
        began = time.monotonic()
        memory = peak_memory(lambda: students.append(work(blocks)), torch.device("cpu"))
        seconds = time.monotonic() - began
        perplexity = math.exp(mean_nll(students[0], validation, SETTINGS.batch, "fp32"))
        equal = cost / distilled
        rows.append(
            [name, f"{tokens:,}", f"{perplexity:,.1f}", f"{equal:,.0f}", f"{seconds:,.0f}", f"{memory >> 20:,}"]
        )
        print(*rows[-1], flush=True)
        key = f"{name.replace(' ', '_')}_{tokens}"
        figures[f"{key}_perplexity"], figures[f"{key}_kd_tokens"] = perplexity, equal
        figures[f"{key}_seconds"], figures[f"{key}_bytes"] = seconds, memory

    def recovered(blocks: Tensor) -> GPT:
        made = case.student()
        recover(teacher, made, case.sub, case.selection, blocks, SETTINGS)
        return made

    measure("cut", 0, lambda _: case.student(), 0)
    passes = COMPARED * sum(layers_flops(context.architecture, sub, length=length) for sub in (None, case.sub))
    measure("bias only", COMPARED, lambda blocks: compensated(case, blocks, bias_only), passes)
    # Its sums and solves, and thus its cost, are those of a recovery.
    cost = flops(context.architecture, case.sub, COMPARED // length, length, SETTINGS)
    measure("one-shot", COMPARED, lambda blocks: compensated(case, blocks, one_shot), cost)
    for tokens in COUNTS:
        cost = flops(context.architecture, case.sub, tokens // length, length, SETTINGS)
        measure("recovered", tokens, recovered, cost)
    report(
        f"Recovery of {len(case.sub.layers)} of 30 layers, {VALIDATION} validation blocks of {length} tokens, fp32",
        ["method", "tokens", "perplexity", "FLOPs in KD tokens", "seconds", "MiB"],
        rows,
        figures,
        options.json,
    )


if __name__ == "__main__":
    main()
