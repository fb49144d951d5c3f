"""Stage evaluate: perplexity on the fixed validation blocks, a prompt that every model continues, and speed."""

import math
from pathlib import Path

from pipeline.artifacts import Recipe, write_json
from pipeline.errors import SprigError
from pipeline.evaluation import efficiency
from pipeline.evaluation.sampling import continue_text
from pipeline.models.perplexity import mean_nll
from pipeline.progress import Progress
from pipeline.stages import distill, extract, prepare
from pipeline.stages.context import Context, Step, part

STAGE, VERSION = "evaluate", 2
RESULT = "evaluation.json"
SPEED_VERSION, SPEED = 1, "speed.json"


def roles(context: Context) -> list[str]:
    """The models that a run trains."""
    return ["student", "control"] if context.config.distill.control.enabled else ["student"]


def step(context: Context) -> Step:
    config = context.config.evaluate
    teacher = prepare.teacher_step(context, context.config.teacher).recipe
    tokens = prepare.tokens_step(context).recipe
    trained = {role: distill.step(context, role).recipe for role in roles(context)}
    inputs = {"teacher": teacher, "tokens": tokens, **trained}
    recipe = Recipe(
        STAGE,
        VERSION,
        part(config, "speed", "tasks", "limit") | {"precision": context.precision},
        {name: recipe.fingerprint for name, recipe in inputs.items()},
    )

    def make(folder: Path) -> None:
        blocks = context.evenly(tokens, "validation", config.blocks, "evaluate.blocks")
        tokenizer = context.tokenizer(teacher)
        prompt = tokenizer.encode(config.prompt)
        result = {}
        with Progress("evaluate", total=1 + len(trained), unit="models") as progress:
            for name in ("teacher", *trained):
                if name == "teacher":
                    model = context.teacher(teacher, context.config.teacher)
                else:
                    model = context.student(trained[name], context.device)
                nll = mean_nll(model, blocks, config.batch, context.precision)
                new = continue_text(model, prompt, config.sample_tokens, tokenizer.eos_id, context.precision)
                result[name] = {"nll": nll, "perplexity": math.exp(nll), "sample": tokenizer.decode(new)}
                progress.advance(1)
        write_json(folder / RESULT, {"prompt": config.prompt, "tokens": blocks[:, 1:].numel(), "models": result})

    return Step(STAGE, "evaluation", recipe, make)


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


def speed_step(context: Context) -> Step:
    """Teacher and student timed side by side. An artifact of its own, so that a figure is measured once; weights do
    not matter for it, so the student is the untrained one."""
    config = context.config
    teacher = prepare.teacher_step(context, config.teacher).recipe
    student = extract.step(context, "student").recipe
    tokens = prepare.tokens_step(context).recipe
    recipe = Recipe(
        STAGE,
        SPEED_VERSION,
        part(config.evaluate.speed) | {"prefill": prefill(context), "precision": context.precision},
        {"teacher": teacher.fingerprint, "student": student.fingerprint, "tokens": tokens.fingerprint},
    )

    def make(folder: Path) -> None:
        blocks = context.blocks(tokens, "validation")
        count = -(-prefill(context) // blocks.block_size)
        speeds = efficiency.speeds(
            {
                "teacher": context.teacher(teacher, config.teacher),
                "student": context.student(student, context.device).eval(),
            },
            context.evenly(tokens, "validation", count, "evaluate.speed.prefill")[:, :-1].flatten()[: prefill(context)],
            config.evaluate.speed.decode,
            config.evaluate.speed.repetitions,
            context.precision,
        )
        write_json(folder / SPEED, {"hardware": efficiency.hardware(context.device), "models": speeds})

    return Step(STAGE, "speed", recipe, make)
