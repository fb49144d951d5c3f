"""What a search costs on the embedded teacher: one evaluation, and peak memory.

Each next to the plain way in the same run: a bare forward pass with cross-entropy; the sum of what must be held. Times
are of the processor, which other jobs stretch less than the clock's.
The search's other proofs have files of their own: `sampling` (members of a bin a second, against drawing and
rejecting) and `strategies` (which finds the best at equal tokens).
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from time import process_time

import numpy as np
import torch
from litgpt import GPT
from litgpt.utils import chunked_cross_entropy
from torch.nn import functional as F

import pipeline
from benchmarks.harness import alternate, arguments, peak_memory, report
from benchmarks.searching import prepared, searched
from pipeline.models.extraction import extract
from pipeline.search.evaluator import CPU_CHUNK_TOKENS, Evaluator
from pipeline.search.strategies.uniform import uniform
from pipeline.stages import order, prepare, scoring
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import parameters

REPETITIONS = 3
SPACES = {"quickstart": [], "fixed width": ["space.hold=[n_embd]"]}
BLOCKS, LENGTH = 8, 512


def context_of(*overrides: str) -> Context:
    words = ["experiment=quickstart", "precision=fp32", *overrides]
    return prepared(Context(pipeline.compose(words), lambda line: None))


def teacher_of(context: Context) -> GPT:
    return context.teacher(prepare.teacher_recipe(context, context.config.teacher), context.config.teacher)


@torch.no_grad()
def evaluation(name: str) -> dict[str, float]:
    """Seconds of scoring one candidate, extraction included, and of bare models of the same sizes."""
    context = context_of("search=evolution", f"search.blocks={BLOCKS}", *SPACES[name])
    teacher, ordering = teacher_of(context), order.load(context, roots(context).ordering)
    space = context.space(ordering)
    # Stock litgpt holds only uniform ones: the other space shows the layer-wise model.
    sub = uniform(space) if name == "quickstart" else space.sample(np.random.default_rng(0))
    tokens = torch.randint(teacher.config.vocab_size, (BLOCKS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    evaluator, model = Evaluator(teacher, ordering, tokens, "fp32", BLOCKS), extract(teacher, sub, ordering)

    def chunked() -> torch.Tensor:
        return chunked_cross_entropy(model(inputs, lm_head_chunk_size=CPU_CHUNK_TOKENS), targets, CPU_CHUNK_TOKENS)

    methods = {
        "ours": lambda: list(evaluator.run([sub])),
        "bare, dense": lambda: F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()),
    }
    if type(model) is GPT:
        methods["bare, chunked"] = chunked
    extract(teacher, sub, ordering)
    model(inputs[:1])  # warm-up

    def seconds(method) -> float:
        started = process_time()
        method()
        return process_time() - started

    return alternate({each: lambda m=method: seconds(m) for each, method in methods.items()}, REPETITIONS)


def memory() -> dict[str, float]:
    """MiB that a search of the quickstart's space holds at its peak above what its process held after its imports and
    plans, and what it may: in a process of its own."""
    context = context_of("search=local", "search.blocks=4", "search.batch=4")
    config = replace(context.config.search, population=4, generations=2, offspring=5)
    length, largest = context.config.data.block_size, 0

    class Watched:
        def __init__(self, scorer):
            self.scorer = scorer

        def run(self, subs):
            nonlocal largest
            largest = max(largest, *(parameters(context.architecture, sub) for sub in subs))
            return self.scorer.run(subs)

    def work() -> None:
        with scoring.scorer(context, config, roots(context)) as scorer:
            searched(context, config, Watched(scorer), context.config.seed, length)

    order.load(context, roots(context).ordering)
    peak = peak_memory(work, torch.device("cpu")) / 2**20
    held = {
        "teacher": 4 * parameters(context.architecture) / 2**20,
        "1.3 x largest candidate": 1.3 * 4 * largest / 2**20,
        "calibration tokens": 8 * config.blocks * (length + 1) / 2**20,
    }
    return {"peak": peak, **held, "may hold": sum(held.values())}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    figures, rows = {}, []
    for name in SPACES:
        seconds = evaluation(name)
        for method, each in seconds.items():
            figures[f"{name}: {method}, seconds"] = each
            rows.append([name, method, f"{each:.2f}", f"{seconds['ours'] / each:.2f}"])
    title = f"One evaluation, {BLOCKS} x {LENGTH} tokens, medians of {REPETITIONS}"
    report(title, ["space", "method", "processor seconds", "ours to it"], rows, figures, None)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        held = pool.submit(memory).result()
    figures |= {f"{name}, MiB": each for name, each in held.items()}
    rows = [[name, f"{each:,.0f}"] for name, each in held.items()]
    report("Memory of a search, MiB", ["what", "MiB"], rows, figures, options.json)


if __name__ == "__main__":
    main()
