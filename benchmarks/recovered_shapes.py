"""Recovery of cuts of other kinds than the quickstart's, on the embedded teacher.

    python -m benchmarks.recovered_shapes [--cuts plain width 75% 50% 25%] [--tokens 16384 65536] [--json FILE]

`plain`: the first 17 layers and the first neurons, as the paper's plain selection. `width`: all layers, 384 of 576
embedding entries and 960 of 1,536 neurons by importance. `75%`, `50%` and `25%`: what importance chooses at this share
of the parameters. Perplexity of the cut and after recovery on this many training tokens, over 16 validation blocks.
"""

import argparse
import math
import time
from pathlib import Path

import pipeline
from benchmarks.compensation import SETTINGS, Case
from benchmarks.harness import report
from benchmarks.recovery import VALIDATION
from benchmarks.searching import prepared
from pipeline.config import Strategy
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.recover import recover
from pipeline.search.strategies.registry import RULES
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.value import LayerGenes, SubNetwork

CUTS = ("plain", "width", "75%", "50%", "25%")


def of_size(center: int | None) -> Context:
    """The quickstart, with the bin around another number of parameters."""
    words = [] if center is None else [f"bin.center={center}"]
    return Context(pipeline.compose(["experiment=quickstart", "precision=fp32", *words]), log=lambda line: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16_384, 65_536])
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=CUTS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as one flat dictionary")
    given = parser.parse_args()
    context = prepared(of_size(None))
    made = roots(context)
    teacher, ordering = context.teacher(made.teacher, context.config.teacher), order.load(context, made.ordering)
    a, length = context.architecture, context.config.data.block_size
    plain, every = Ordering.identity(a), tuple(range(a.n_layer))
    cases = {
        "plain": (plain, SubNetwork(every[:17], 576, (LayerGenes(3, 3, 64, 832),) * 17)),
        "width": (
            ordering,
            SubNetwork(every, 384, (LayerGenes(3, 3, 64, 960),) * a.n_layer, ordering=ordering.fingerprint),
        ),
    }
    for name in CUTS[2:]:
        center = int(name[:-1]) * parameters(a) // 100
        cases[name] = ordering, RULES[Strategy.importance](of_size(center).space(ordering))
    validation = context.evenly(made.tokens, "validation", VALIDATION, "VALIDATION")
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for name in given.cuts:
        by, sub = cases[name]
        case = Case(teacher, sub, select(sub, a, by))
        for tokens in (0, *given.tokens):
            student, began = case.student(), time.monotonic()
            if tokens:
                blocks = context.evenly(made.tokens, "train", tokens // length, "--tokens")
                recover(teacher, student, sub, case.selection, blocks, SETTINGS)
            seconds = time.monotonic() - began
            perplexity = math.exp(mean_nll(student, validation, SETTINGS.batch, "fp32"))
            figures[f"{name}_{tokens}_perplexity"], figures[f"{name}_{tokens}_seconds"] = perplexity, seconds
            shape = f"{len(sub.layers)} layers, width {sub.n_embd}"
            rows.append(
                [name, shape, f"{parameters(a, sub):,}", f"{tokens:,}", f"{perplexity:,.1f}", f"{seconds:,.0f}"]
            )
            print(*rows[-1], flush=True)
    columns = ["cut", "student", "parameters", "tokens", "perplexity", "seconds"]
    report("Recovery of other cuts", columns, rows, figures, given.json)


if __name__ == "__main__":
    main()
