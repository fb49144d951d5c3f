"""Stage prepare: the teacher as a litgpt checkpoint, the text as token blocks."""

from pathlib import Path

from pipeline.artifacts import Recipe
from pipeline.config import TeacherConfig
from pipeline.data import prepare as data
from pipeline.models import sources
from pipeline.stages.context import Context, Step

STAGE, VERSION = "prepare", 1
TOKENS = "tokens"  # the role of the text


def teacher_step(context: Context, config: TeacherConfig, role: str = "teacher") -> Step:
    recipe = Recipe(STAGE, VERSION, {"teacher": context.identity_of(config)})
    return Step(STAGE, role, recipe, lambda folder: sources.convert(config, folder))


def tokens_step(context: Context) -> Step:
    """Teachers of one tokenizer, and a student that is the next teacher, share the text."""
    recipe = Recipe(STAGE, VERSION, {"data": context.data_identity, "tokenizer": context.tokenizer_identity})

    def make(folder: Path) -> None:
        teacher = teacher_step(context, context.config.teacher).recipe
        data.prepare(context.config.data, context.tokenizer(teacher), folder)

    return Step(STAGE, TOKENS, recipe, make)
