"""Stage prepare: the teacher as a litgpt checkpoint, the text as token blocks.

With space.vocabulary, teacher and text are prepared with the whole vocabulary first. How often the training text has
each token decides which of them stay; then all that follows sees a teacher and a text of these alone.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.artifacts import Recipe, digest
from pipeline.config import TeacherConfig, to_plain
from pipeline.data import prepare as data
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources, vocabulary
from pipeline.models.vocabulary import Vocabulary
from pipeline.stages.context import Context

STAGE, VERSION = "prepare", 1
CUT_VERSION = 1  # of the choice of tokens


@dataclass(frozen=True)
class Uncut:
    """What a vocabulary is cut out of: the teachers and the text as they are without space.vocabulary."""

    teacher: Recipe
    kd_teacher: Recipe
    tokens: Recipe


def uncut(context: Context) -> Uncut | None:
    """None without space.vocabulary."""
    config = context.config
    if config.space.vocabulary is None:
        return None
    teacher = _teacher(context, config.teacher)
    return Uncut(teacher, _teacher(context, config.kd_teacher) if config.kd_teacher else teacher, _tokens(context))


def teacher_recipe(context: Context, config: TeacherConfig) -> Recipe:
    prepared, kept = _teacher(context, config), context.config.space.vocabulary
    if kept is None:
        return prepared
    inputs = {"teacher": prepared.fingerprint, "tokens": _tokens(context).fingerprint}
    return Recipe(STAGE, CUT_VERSION, {"vocabulary": kept}, inputs)


def _teacher(context: Context, config: TeacherConfig) -> Recipe:
    return Recipe(STAGE, VERSION, {"teacher": context.identity_of(config)})


def make_teacher(context: Context, recipe: Recipe, folder: Path, config: TeacherConfig) -> None:
    context.check_source(config, sources.identify)
    sources.convert(config, folder)


def make_cut_teacher(
    context: Context, recipe: Recipe, folder: Path, config: TeacherConfig, prepared: Recipe, whole: Uncut
) -> None:
    """The teacher `prepared` with the tokens that the training text uses most."""
    given = context.made(prepared)
    if prepared != whole.teacher:
        context.tokenizer(whole.teacher).check_same(context.tokenizer(prepared))
    entries, text = Vocabulary(given), context.blocks(whole.tokens, "train")
    kept = entries.most_used(text.counts(context.tokenizer(prepared).vocab_size), recipe.config["vocabulary"])
    model = checkpoint.load(given, "cpu", sources.DTYPES[config.dtype])
    with TemporaryDirectory() as written:
        entries.write(kept, Path(written))
        checkpoint.save(vocabulary.with_rows(model, kept), folder, None, Path(written))


def tokens_recipe(context: Context) -> Recipe:
    """Teachers of one tokenizer share the text, and so does a student that becomes the next teacher."""
    prepared, kept = _tokens(context), context.config.space.vocabulary
    if kept is None:
        return prepared
    own = prepared.config | {"vocabulary": kept}
    return Recipe(STAGE, CUT_VERSION, own, {"counted": prepared.fingerprint})


def _tokens(context: Context) -> Recipe:
    return Recipe(STAGE, VERSION, {"data": context.data_identity, "tokenizer": context.tokenizer_identity})


def make_tokens(context: Context, recipe: Recipe, folder: Path, teacher: Recipe) -> None:
    context.check_source(context.config.data, data.identify)
    data.prepare(context.config.data, context.tokenizer(teacher), folder)


def check_block_size(block_size: int, role: str, name: str, longest: int) -> None:
    """Raises SprigError where blocks are longer than a model's context."""
    if block_size > longest:
        raise SprigError(
            f"data.block_size={block_size} exceeds the context of {role} {name}, {longest}: lower data.block_size."
        )


def check(context: Context) -> None:
    """Before anything runs.

    Raises:
        SprigError: space.vocabulary has more tokens than the teacher's tokenizer or fewer than always stay, or the
            tokenizer is not a BPE that reads every byte. A tokenizer that is still to be downloaded is checked once it
            is here.
    """
    teacher, kept = context.config.teacher, context.config.space.vocabulary
    if kept is None:
        return
    if kept > (entries := context.describe(teacher).vocab_size):
        raise SprigError(
            f"{vocabulary.KEY}={kept:,}, but teacher {teacher.name} has {entries:,} tokens: lower it, or set "
            f"{vocabulary.KEY}=null."
        )
    if teacher.tokenizer is None and teacher.on_hub:
        return
    if kept < (least := context.facts.get(f"least vocabulary {digest(to_plain(teacher))}", lambda: _least(teacher))):
        raise SprigError(vocabulary.too_small(kept, least))


def _least(teacher: TeacherConfig) -> int:
    """How many of its tokens always stay."""
    with TemporaryDirectory() as folder:
        sources.write_tokenizer(teacher, Path(folder))
        return len(Vocabulary(Path(folder)).always)
