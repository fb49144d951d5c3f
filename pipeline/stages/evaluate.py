"""Stage evaluate: perplexity on the fixed validation blocks, a prompt that every model continues, and speed."""

import math
from pathlib import Path
from typing import Any

from litgpt import GPT
from torch import Tensor

from pipeline.artifacts import Recipe, write_json
from pipeline.config import material
from pipeline.errors import SprigError
from pipeline.evaluation import efficiency, same_text
from pipeline.evaluation.sampling import continue_text, warn_of_cut
from pipeline.models.perplexity import bits_per_byte, mean_nll
from pipeline.models.tokenizer import Tokenizer
from pipeline.progress import Progress
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots

STAGE, VERSION = "evaluate", 3
RESULT, UNCUT = "evaluation.json", "uncut_teacher"
SPEED_VERSION, SPEED = 1, "speed.json"


def recipe(context: Context, roots: Roots, models: dict[str, Recipe]) -> Recipe:
    """`models` are the students to evaluate, by name."""
    inputs = {"teacher": roots.teacher, "tokens": roots.tokens, **models}
    if roots.uncut is not None:
        inputs[UNCUT] = roots.uncut.teacher
    return Recipe(
        STAGE,
        VERSION,
        material(context.config.evaluate, "speed", "tasks", "limit") | {"precision": context.precision},
        {name: recipe.fingerprint for name, recipe in inputs.items()},
    )


def make(context: Context, recipe: Recipe, folder: Path, roots: Roots, models: dict[str, Recipe]) -> None:
    config = context.config.evaluate
    blocks = context.evenly(roots.tokens, "validation", config.blocks, "evaluate.blocks")
    tokenizer = context.tokenizer(roots.teacher)
    prompt = tokenizer.encode(config.prompt)
    warn_of_cut("evaluate.prompt", len(prompt), context.architecture.context)
    targets = blocks[:, 1:]
    size = tokenizer.text_bytes(targets.tolist())
    result = {}

    def figures(model: GPT) -> dict[str, Any]:
        nll = mean_nll(model, blocks, config.batch, context.precision)
        new = continue_text(model, prompt, config.sample_tokens, tokenizer.eos_id, context.precision)
        return _figures(nll, targets.numel(), size) | {"sample": tokenizer.decode(new)}

    with Progress("evaluate", total=1 + len(models), unit="models") as progress:
        result["teacher"] = figures(context.teacher(roots.teacher, context.config.teacher))
        progress.advance(1)
        for name, student in models.items():  # no name holds a model: its memory is free before the next is loaded
            result[name] = figures(context.student(student, context.device))
            progress.advance(1)
    if roots.uncut is not None:
        result[UNCUT] = _uncut(context, roots.uncut.teacher, blocks, tokenizer, size)
    write_json(folder / RESULT, {"prompt": config.prompt, "tokens": targets.numel(), "bytes": size, "models": result})


def _figures(nll: float, tokens: int, size: int) -> dict[str, Any]:
    return {"nll": nll, "perplexity": math.exp(nll), "bits_per_byte": bits_per_byte(nll, tokens, size)}


def _uncut(context: Context, recipe: Recipe, blocks: Tensor, cut: Tokenizer, size: int) -> dict[str, Any]:
    """The teacher with its whole vocabulary, on the text of the same blocks, which is of `size` bytes."""
    config, tokenizer = context.config, context.tokenizer(recipe)
    model = context.teacher(recipe, config.teacher)
    rows = same_text.retokenised(blocks, cut, tokenizer, config.data.special_tokens)
    total, tokens = same_text.nll(model, rows, context.precision)
    prompt, count = tokenizer.encode(config.evaluate.prompt), config.evaluate.sample_tokens
    new = continue_text(model, prompt, count, tokenizer.eos_id, context.precision)
    return _figures(total / tokens, tokens, size) | {"tokens": tokens, "sample": tokenizer.decode(new)}


def prefill(context: Context) -> int:
    """Tokens of the prompt that is timed.

    Raises:
        SprigError: with the tokens that follow, it does not fit the context.
    """
    speed, room = context.config.evaluate.speed, context.architecture.context - context.config.evaluate.speed.decode
    length = min(context.config.data.block_size, room) if speed.prefill is None else speed.prefill
    if not 0 < length <= room:
        raise SprigError(
            f"evaluate.speed.prefill={speed.prefill} and evaluate.speed.decode={speed.decode} exceed the context of "
            f"teacher {context.config.teacher.name}, {context.architecture.context}: lower them."
        )
    return length


def timed_prompt(context: Context, tokens: Recipe) -> Tensor:
    """The prompt that is timed, out of the validation blocks, (length,).

    Raises:
        SprigError: as `prefill`, or the split has fewer tokens.
    """
    length, blocks = prefill(context), context.blocks(tokens, "validation")
    if length > (text := len(blocks) * blocks.block_size):
        raise SprigError(
            f"evaluate.speed.prefill={length:,}, but the validation split of data {context.config.data.name} has "
            f"{text:,} tokens: lower evaluate.speed.prefill, raise data.validation, or give more text."
        )
    return blocks.evenly(-(-length // blocks.block_size))[:, :-1].flatten()[:length]


def speed_recipe(context: Context, roots: Roots, student: Recipe) -> Recipe:
    """Teacher and student timed side by side. An artifact of its own, so that a figure is measured once; weights do
    not matter for it, so the student is the untrained one."""
    return Recipe(
        STAGE,
        SPEED_VERSION,
        material(context.config.evaluate.speed) | {"prefill": prefill(context), "precision": context.precision},
        {
            "teacher": roots.teacher.fingerprint,
            "student": student.fingerprint,
            "tokens": roots.tokens.fingerprint,
        },
    )


def make_speed(context: Context, recipe: Recipe, folder: Path, roots: Roots, student: Recipe) -> None:
    config = context.config
    speeds = efficiency.speeds(
        {
            "teacher": context.teacher(roots.teacher, config.teacher),
            "student": context.student(student, context.device).eval(),
        },
        timed_prompt(context, roots.tokens),
        config.evaluate.speed.decode,
        config.evaluate.speed.repetitions,
        context.precision,
    )
    write_json(folder / SPEED, {"hardware": efficiency.hardware(context.device), "models": speeds})
