"""Stage evaluate: perplexity on the fixed validation blocks, and one prompt that every model continues."""

import math
from pathlib import Path

from pipeline.artifacts import Recipe, write_json
from pipeline.evaluation.sampling import continue_text
from pipeline.models.perplexity import mean_nll
from pipeline.progress import Progress
from pipeline.stages import distill, prepare
from pipeline.stages.context import Context, Step, part

STAGE, VERSION = "evaluate", 2
RESULT = "evaluation.json"


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
        part(config) | {"precision": context.precision},
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
