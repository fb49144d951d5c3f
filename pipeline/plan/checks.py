"""Does the configuration fit the teacher, the text and the device? Asked before any weight is loaded."""

from pathlib import Path

from pipeline.config import Layers, OrderingKind, Strategy
from pipeline.errors import SprigError
from pipeline.evaluation import tasks
from pipeline.places import refuse_unwritable
from pipeline.plan import costs, epochs, memory
from pipeline.stages import cache, distill, evaluate, extract, prepare, recover, rerank, search, study
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots, roots
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.selection import Ordering
from pipeline.training.distributed import check_processes
from pipeline.training.engine import check_compile, check_precision


def check(context: Context) -> None:
    """Rejects what cannot work before any weight is loaded.

    Raises:
        SprigError: says which two values do not fit, and the cure.
    """
    prepare.check(context)
    config, architecture = context.config, context.architecture
    if not (config.run or context.store.root.exists()):  # a run that is finished can be shown from what is read-only
        refuse_unwritable("outputs", Path(config.outputs))
    prepare.check_block_size(config.data.block_size, "teacher", config.teacher.name, architecture.context)
    if config.search.strategy == Strategy.given:
        least = flops_per_token(architecture, search.read_given(context, roots(context)), length=config.data.block_size)
    else:
        space = context.space(Ordering.identity(architecture))
        search.check_strategy(context, space)
        least = space.least_flops_per_token(config.data.block_size)
    search.check_limit(context, least)
    if config.space.layers == Layers.rank and config.ordering.kind == OrderingKind.none:
        raise SprigError(
            "space.layers=rank needs a ranking of the layers, but ordering.kind=none has none: use "
            "ordering=importance, or space.layers=prefix."
        )
    if config.distill.distils:
        _check_kd(context)
        cache.check(context)
    extract.check(context, roots(context))
    distill.check(context)
    recover.check(context)
    epochs.check(context)
    rerank.check(context)
    study.check(context)
    evaluate.prefill(context)
    tasks.check(config.evaluate.tasks, fetch=False)
    check_precision(context.precision, config.deepspeed)
    check_compile(config.distill, context.device)
    if context.device.type == "cuda":
        memory.check(context, costs.typical(context).middle)
    if context.device.type == "cuda" and not config.plan:
        check_processes()


def _check_kd(context: Context) -> None:
    """The KD teacher, where it is another than the one that is cut."""
    config = context.config
    cut, kd = context.describe(config.teacher), context.describe(config.kd_teacher or config.teacher)
    prepare.check_block_size(config.data.block_size, "kd_teacher", kd.name, kd.context)
    if kd.vocab_size != cut.vocab_size:
        raise SprigError(
            f"kd_teacher {kd.name} has a vocabulary of {kd.vocab_size:,} and teacher {cut.name} one of "
            f"{cut.vocab_size:,}: take a kd_teacher with the same tokenizer."
        )


def check_prepared(context: Context, made: Roots) -> None:
    """Once teachers and text are there: does every stage find the blocks that it asks for, and every model the tokens.

    Raises:
        SprigError: as epochs.check, Context.evenly, evaluate.timed_prompt and Tokenizer.check_same.
    """
    epochs.check(context)
    config, tokens = context.config, made.tokens
    if distill.loads_kd_teacher(context):
        context.tokenizer(made.teacher).check_same(context.tokenizer(made.kd_teacher))
    context.evenly(tokens, "calibration", config.search.blocks, "search.blocks")
    context.evenly(tokens, "validation", config.evaluate.blocks, "evaluate.blocks")
    evaluate.timed_prompt(context, tokens)
    if config.ordering.kind != OrderingKind.none or config.search.reads_errors:
        context.evenly(tokens, "calibration", config.ordering.blocks, "ordering.blocks")
    if recover.roles(context):
        recover.training_blocks(context, made)
