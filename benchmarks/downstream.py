"""Downstream tasks: examples a second of the adapter, of one text a row, and of lm-eval's own HF backend.

The embedded teacher on the first examples of tasks whose data is here (`make tasks`), in fp32. One text a row is the
same code without what texts share. Seconds are the processor's, of this process alone.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import pipeline
from benchmarks.harness import alternate, arguments, report
from pipeline.evaluation import packing, tasks
from pipeline.evaluation.answers import Answers
from pipeline.evaluation.tasks_model import Scorer
from pipeline.stages import prepare
from pipeline.stages.context import Context

TASKS, EXAMPLES, BATCH_TOKENS, REPETITIONS = ("arc_easy", "piqa"), 8, 2048, 3
Backend = Callable[[list[Instance]], list]


def backends() -> dict[str, Backend]:
    """What answers a task's requests, by its name in the table."""
    context = Context(pipeline.compose(["experiment=quickstart", "precision=fp32"]), log=lambda line: None)
    config, recipe = context.config.teacher, prepare.teacher_recipe(context, context.config.teacher)
    folder = context.store.obtain(recipe, partial(prepare.make_teacher, context, recipe, config=config))
    model, tokenizer = context.teacher(recipe, config), context.tokenizer(recipe)

    def ours(shared: int, requests: list[Instance]) -> list:
        with TemporaryDirectory() as place, mock.patch.object(packing, "SHARED", shared):
            answers = Answers(Path(place) / "answers")
            return Scorer(model, tokenizer, "fp32", BATCH_TOKENS, "requests", answers).loglikelihood(requests)

    files = Path(importlib.util.find_spec(config.package).origin).parent
    hf = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(files, gguf_file=config.path, dtype=torch.float32),
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>"),
        batch_size=8,
    )
    return {
        "packed": partial(ours, packing.SHARED),
        "one text a row": partial(ours, 0),
        "HF backend": partial(hf.loglikelihood, disable_tqdm=True),
    }


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    methods, rows, figures = backends(), [], {}
    for name in TASKS:
        task = tasks.load(name)
        task.build_all_requests(limit=EXAMPLES)
        answers = {}

        def seconds(method: str, requests=task.instances, answers=answers) -> float:
            before = time.process_time()
            answers[method] = methods[method](requests)
            return time.process_time() - before

        if name == TASKS[0]:
            seconds("packed")  # warm-up
        spent = alternate({method: partial(seconds, method) for method in methods}, REPETITIONS)
        pairs = zip(answers["packed"], answers["HF backend"], strict=True)
        apart = max(abs(ours - theirs) for (ours, _), (theirs, _) in pairs)
        figures |= {f"{name}_{method.replace(' ', '_')}_per_second": EXAMPLES / spent[method] for method in methods}
        figures[f"{name}_largest_difference_in_nats"] = apart
        times = [f"{EXAMPLES / value:.2f} ({value / spent['packed']:.2f}x)" for value in spent.values()]
        rows.append([name, *times, f"{apart:.1e}"])
    title = f"Examples a second of processor time (and the time, to packed), medians of {REPETITIONS}"
    report(title, ["task", *methods, "largest difference, nats"], rows, figures, options.json)


if __name__ == "__main__":
    main()
