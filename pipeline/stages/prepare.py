"""Stage prepare: the teacher as a litgpt checkpoint, the text as token blocks."""

from pathlib import Path

from pipeline.artifacts import Recipe
from pipeline.config import TeacherConfig
from pipeline.data import prepare as data
from pipeline.models import sources
from pipeline.stages.context import Context

STAGE, VERSION = "prepare", 1


def teacher_recipe(context: Context, config: TeacherConfig) -> Recipe:
    return Recipe(STAGE, VERSION, {"teacher": context.identity_of(config)})


def make_teacher(context: Context, recipe: Recipe, folder: Path, config: TeacherConfig) -> None:
    context.check_source(config, sources.identify)
    sources.convert(config, folder)


def tokens_recipe(context: Context) -> Recipe:
    """Teachers of one tokenizer share the text, and so does a student that becomes the next teacher."""
    return Recipe(STAGE, VERSION, {"data": context.data_identity, "tokenizer": context.tokenizer_identity})


def make_tokens(context: Context, recipe: Recipe, folder: Path, teacher: Recipe) -> None:
    context.check_source(context.config.data, data.identify)
    data.prepare(context.config.data, context.tokenizer(teacher), folder)
