"""Where a finished run's results are, and the commands that come next."""

import shlex
from pathlib import Path

from pipeline.report.schema import Evaluation

EXPORTED = "my-model"
COLUMNS = 80


def places(folder: Path) -> list[tuple[str, str]]:
    """Rows of name and path."""
    here = _near(folder)
    return [("report", f"{here / 'report.html'}"), ("student", f"{here / 'artifacts/distilled_student'}")]


def continuations(evaluation: Evaluation) -> list[str]:
    """The prompt, and a line for each model with how it continues."""
    lines = [("", evaluation["prompt"])]
    lines += [(f"  {name}: ", f"... {model['sample']}") for name, model in evaluation["models"].items()]
    return [f"{name}{_cut(text, COLUMNS - len(name))}" for name, text in lines]


def _cut(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def next_commands(folder: Path) -> list[tuple[str, str]]:
    """Rows of purpose and command, in the order in which people need them."""
    run = shlex.quote(f"run={_near(folder)}")
    return [
        ("continue a text", f'sprig {run} stages=sample prompt="Once upon a time"'),
        ("chat", f"sprig {run} stages=chat"),
        ("export", f"sprig {run} stages=export export.to={EXPORTED}"),
        (
            "load the export",
            f"python -c 'from transformers import AutoModelForCausalLM as M; M.from_pretrained(\"{EXPORTED}\")'",
        ),
        ("report again", f"sprig {run} stages=report"),
    ]


def _near(folder: Path) -> Path:
    """As it is written from the working directory, if it lies below."""
    folder, here = folder.absolute(), Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
