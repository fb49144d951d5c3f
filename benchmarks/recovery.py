"""Recovery on the embedded teacher: perplexity, cost and memory by calibration tokens, next to other compensations.

The sub-network is the one that importance chooses at the quickstart's bin: 17 of 30 layers, MLP 832 of 1,536, full
width. The other two are in compensation.py.
"""

import math
import time
from collections.abc import Callable

import torch
from litgpt import GPT
from torch import Tensor

import pipeline
from benchmarks.compensation import SETTINGS, Case, bias_only, compensated, one_shot
from benchmarks.harness import arguments, peak_memory, report
from benchmarks.searching import prepared
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.costs import flops
from pipeline.models.recovery.recover import recover
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import flops_per_token, layers_flops
from pipeline.subnetwork.selection import Ordering, Selection, select
from pipeline.subnetwork.value import LayerGenes, SubNetwork

COUNTS, COMPARED, VALIDATION = (512, 4_096, 16_384, 65_536), 4_096, 16


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
