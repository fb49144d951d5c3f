"""Stage evaluate, its tasks: every model of the run on every one of evaluate.tasks, an artifact for each pair.

So runs that share a teacher share its scores; a task that was killed goes on where it was.
"""

import json
from pathlib import Path

from pipeline.artifacts import Recipe, write_atomically, write_json
from pipeline.evaluation import tasks
from pipeline.stages import distill, evaluate, prepare
from pipeline.stages.context import Context, Step

VERSION = 1
METRICS, EXAMPLES = "metrics.json", "examples.jsonl"
ANSWERS = "answers.jsonl"  # while a task is scored


def check(context: Context) -> None:
    """Before anything runs: are the tasks known, and, where one is to be scored, its data here.

    Raises:
        SprigError: as evaluation.tasks.check.
    """
    config = context.config
    asked = not config.plan and {evaluate.STAGE, "score"} & set(config.stages)
    missing = asked and any(context.store.find(step.recipe) is None for step in steps(context))
    tasks.check(config.evaluate.tasks, fetch=bool(missing))


def steps(context: Context) -> list[Step]:
    """In the order of the models, so that the teacher is loaded once."""
    return [step for name, model in models(context).items() for step in of_model(context, name, model)]


def models(context: Context) -> dict[str, Recipe]:
    trained = {role: distill.step(context, role).recipe for role in evaluate.roles(context)}
    return {"teacher": prepare.teacher_step(context, context.config.teacher).recipe, **trained}


def of_model(context: Context, name: str, model: Recipe) -> list[Step]:
    return [_step(context, task, name, model) for task in context.config.evaluate.tasks]


def role(model: str, task: str) -> str:
    return f"downstream/{model}/{task}"


def _step(context: Context, task: str, name: str, model: Recipe) -> Step:
    config = context.config.evaluate
    batch_tokens = config.batch * context.config.data.block_size
    own = {"limit": config.limit, "batch_tokens": batch_tokens, "precision": context.precision}
    recipe = Recipe(evaluate.STAGE, VERSION, tasks.identify(task) | own, {"model": model.fingerprint})

    def make(folder: Path) -> None:
        tokenizer = context.tokenizer(model)
        if name == "teacher":
            network = context.teacher(model, context.config.teacher)
        else:
            network = context.student(model, context.device)
        title, answers = f"{task}, {name}", folder / ANSWERS
        metrics, examples = tasks.score(
            network, tokenizer, task, config.limit, context.precision, batch_tokens, title, answers
        )
        answers.unlink(missing_ok=True)
        write_atomically(folder / EXAMPLES, "".join(f"{json.dumps(example)}\n" for example in examples))
        write_json(folder / METRICS, metrics)

    return Step(evaluate.STAGE, role(name, task), recipe, make)


def results(done: dict[str, Path]) -> dict[str, dict[str, dict[str, float]]]:
    """What is scored so far: {model: {task: {metric: value}}}."""
    found: dict = {}
    for name, folder in done.items():
        if name.startswith("downstream/"):
            _, model, task = name.split("/")
            found.setdefault(model, {})[task] = json.loads((folder / METRICS).read_text())
    return found
