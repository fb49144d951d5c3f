"""Stage evaluate, its tasks: every model of the run on every one of evaluate.tasks, an artifact for each pair.

So runs that share a teacher share its scores; an interrupted task resumes where it stopped.
"""

import json
from functools import partial
from pathlib import Path

from pipeline.artifacts import Recipe, write_atomically, write_json
from pipeline.evaluation import tasks
from pipeline.stages import evaluate
from pipeline.stages.context import Context, Steps

VERSION = 1
ROLE = "downstream/"  # how the roles of these steps begin
METRICS, EXAMPLES = "metrics.json", "examples.jsonl"
ANSWERS = "answers.jsonl"  # while a task is scored


def check(context: Context, steps: Steps) -> None:
    """Before anything runs: are the tasks known, and, where one is to be scored, its data here.

    Raises:
        SprigError: as evaluation.tasks.check.
    """
    config = context.config
    asked = not config.plan and {evaluate.STAGE, "score"} & set(config.stages)
    wanted = [step.recipe for role, step in steps.items() if role.startswith(ROLE)]
    missing = asked and any(context.store.find(recipe) is None for recipe in wanted)
    tasks.check(config.evaluate.tasks, fetch=bool(missing))


def role(model: str, task: str) -> str:
    return f"{ROLE}{model}/{task}"


def recipe(context: Context, task: str, model: Recipe) -> Recipe:
    own = {
        "limit": context.config.evaluate.limit,
        "batch_tokens": _batch_tokens(context),
        "precision": context.precision,
    }
    identity = context.facts.get(f"task {task}", partial(tasks.identify, task))
    return Recipe(evaluate.STAGE, VERSION, identity | own, {"model": model.fingerprint})


def make(context: Context, recipe: Recipe, folder: Path, task: str, name: str, model: Recipe) -> None:
    """`model` makes the model `name`: teacher, student or control."""
    tokenizer = context.tokenizer(model)
    if name == "teacher":
        network = context.teacher(model, context.config.teacher)
    else:
        network = context.student(model, context.device)
    title, answers = f"{task}, {name}", folder / ANSWERS
    limit = context.config.evaluate.limit
    metrics, examples = tasks.score(
        network, tokenizer, task, limit, context.precision, _batch_tokens(context), title, answers
    )
    answers.unlink(missing_ok=True)
    write_atomically(folder / EXAMPLES, "".join(f"{json.dumps(example)}\n" for example in examples))
    write_json(folder / METRICS, metrics)


def _batch_tokens(context: Context) -> int:
    return context.config.evaluate.batch * context.config.data.block_size


def results(done: dict[str, Path]) -> dict[str, dict[str, dict[str, float]]]:
    """What is scored so far: {model: {task: {metric: value}}}."""
    found: dict = {}
    for name, folder in done.items():
        if name.startswith(ROLE):
            _, model, task = name.split("/")
            found.setdefault(model, {})[task] = json.loads((folder / METRICS).read_text())
    return found
