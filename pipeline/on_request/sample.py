"""Stage sample, on request: a text that teacher, student and control of a finished run continue, side by side."""

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.sampling import continue_text, warn_of_cut
from pipeline.models import checkpoint
from pipeline.printable import printable
from pipeline.stages import distill, extract
from pipeline.stages.context import Context, Steps
from pipeline.terminal import cell

STAGE = "sample"


def reads(context: Context) -> list[str]:
    """The roles of the steps that it reads."""
    return [*(f"distilled_{role}" for role in extract.roles(context)), "teacher"]


def run(context: Context, steps: Steps) -> dict[str, str]:
    """Prints and returns each model's continuation of `prompt`.

    Raises:
        SprigError: a model of the run is not finished.
    """
    config = context.config
    assert config.prompt is not None  # the schema asks for it
    trained = {role: distill.trained(context, steps[f"distilled_{role}"]) for role in extract.roles(context)}
    teacher = steps["teacher"].recipe
    tokenizer = context.tokenizer(teacher)
    prompt = tokenizer.encode(config.prompt)
    warn_of_cut("prompt", len(prompt), context.architecture.context)
    continued = {}
    for name in ("teacher", *trained):
        if name == "teacher":
            model = context.teacher(teacher, config.teacher)
        else:
            model = checkpoint.load(trained[name], context.device)
        new = continue_text(
            model,
            prompt,
            config.sample.tokens,
            tokenizer.eos_id,
            context.precision,
            config.sample.temperature,
            torch.Generator().manual_seed(config.sample.seed),
        )
        continued[name] = tokenizer.decode(new)
    table = Table(*continued)
    table.add_row(*map(cell, continued.values()))
    Console().print(Text(printable(config.prompt)), table)
    return continued
