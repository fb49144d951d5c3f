"""Where a finished run's results are, and the commands that come next."""

import json
import shlex
from pathlib import Path

from pipeline.layout import near
from pipeline.models.export import stock
from pipeline.report.schema import Evaluation

EXPORTED = "my-model"
COLUMNS = 80


def places(folder: Path, exported: Path | None) -> list[tuple[str, str]]:
    """Rows of name and path."""
    here = near(folder)
    rows = [("report", f"{here / 'report.html'}"), ("student", f"{here / 'artifacts/distilled_student'}")]
    return [*rows, ("export", f"{near(exported)}")] if exported else rows


def continuations(evaluation: Evaluation) -> list[str]:
    """The prompt, and a line for each model with how it continues."""
    lines = [("", evaluation["prompt"])]
    lines += [(f"  {name}: ", f"... {model['sample']}") for name, model in evaluation["models"].items()]
    return [f"{name}{_cut(text, COLUMNS - len(name))}" for name, text in lines]


def _cut(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def next_commands(folder: Path, exported: Path | None) -> list[tuple[str, str]]:
    """Rows of purpose and command, in the order in which people need them. `exported`: where the student was exported
    to by the same command."""
    run, to = shlex.quote(f"run={near(folder)}"), f"{near(exported)}" if exported else EXPORTED
    arguments = json.dumps(to, ensure_ascii=False)
    if exported:
        arguments += stock.loading_arguments(json.loads((exported / "config.json").read_text(encoding="utf-8")))
    load = f"from transformers import AutoModelForCausalLM as M; M.from_pretrained({arguments})"
    export = ("export", f"sprig {run} stages=export export.to={to}")
    publish = ("publish the export", f"hf upload OWNER/{shlex.quote(Path(to).name)} {shlex.quote(to)}")
    return [
        ("continue a text", f'sprig {run} stages=sample prompt="Once upon a time"'),
        ("chat", f"sprig {run} stages=chat"),
        *([] if exported else [export]),
        ("load the export", shlex.join(["python", "-c", load])),
        *([publish] if exported else []),
        ("report again", f"sprig {run} stages=report"),
    ]
