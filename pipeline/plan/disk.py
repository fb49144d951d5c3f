"""What a run writes to the disk: what stays there, and the temporary copies of the stage that makes most of them.

No artifact is copied: it is written where it is then published by a rename. What a stage resumes from, and what it is
about to replace, exists next to it for a while.
"""

from pipeline.config import DataSource, Dtype, GGUFKind, TeacherConfig
from pipeline.data.packing import GROUP
from pipeline.data.prepare import token_dtype
from pipeline.data.shards import CHARACTERS_PER_TOKEN, SHARD_CHARACTERS
from pipeline.plan import epochs
from pipeline.stages import cache, distill, extract, recover, rerank
from pipeline.stages.budget import budget
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import outer_parameters, parameters
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.memory import WEIGHT_BYTES, Need

STATE_BYTES = 12  # of a parameter in a checkpoint: the fp32 weight with both moments
GGUF_BYTES = {GGUFKind.none: 0, GGUFKind.f16: 2, GGUFKind.f32: 4}
WRITTEN = 1  # copies that are being written before the oldest one is removed


def need(context: Context, sub: SubNetwork, size: int) -> Need:
    """At least, for students of `size` parameters with about the layers of `sub`. What the hub's library downloads goes
    to its own cache."""
    config, trained = context.config, extract.roles(context)
    models = 2 * len(trained) + len(recover.roles(context))  # cut, recovered, trained
    stable = len(trained) if distill.stable_tokens(context) else 0
    stage, most = max(_temporary(context, sub, size).items(), key=lambda each: each[1])
    return Need(
        {
            "teachers": sum(_weights(context, each) for each in _teachers(context)),
            "text": _text_tokens(context) * sum(map(_token_bytes, _versions(context, config.teacher))),
            "students": models * WEIGHT_BYTES[Dtype.fp32] * size,
            "stable phases": stable * STATE_BYTES * size,
            "logits cache": cache.size(context) if config.distill.cached else 0,
            "export": _exported(context, sub) * (WEIGHT_BYTES[config.export.dtype] + GGUF_BYTES[config.export.gguf]),
            f"temporary in {stage}": most,
        }
    )


def _temporary(context: Context, sub: SubNetwork, size: int) -> dict[str, int]:
    """Bytes that each stage needs for a while, the stages being made one after another."""
    config, a = context.config, context.architecture
    text = CHARACTERS_PER_TOKEN * _text_tokens(context)  # bytes, of English
    copied = config.data.source == DataSource.hub and not config.data.streaming  # by the hub's library, to be read
    shards = min(text, GROUP * SHARD_CHARACTERS) // CHARACTERS_PER_TOKEN  # in tokens; packed, and not yet removed
    gradients = 4 * config.ordering.blocks * config.data.block_size * a.n_embd
    layers = size - outer_parameters(a, sub.n_embd)
    refitted = layers + WRITTEN * layers // sub.n_layer
    short = rerank.expected(context) or config.study.subnetworks  # they keep one checkpoint
    return {
        "prepare": max(text * copied, shards * max(map(_token_bytes, _versions(context, config.teacher)))),
        "reconstruct": (1 + WRITTEN) * gradients if config.search.reads_errors else 0,
        "recover": WEIGHT_BYTES[Dtype.fp32] * refitted if recover.roles(context) else 0,
        "short trainings": (1 + WRITTEN) * STATE_BYTES * size if short else 0,
        "distill": (config.distill.checkpoint.keep + WRITTEN) * STATE_BYTES * size,
        # Checked in fp32, and then rounded.
        "export": _exported(context, sub) * (WEIGHT_BYTES[Dtype.fp32] - WEIGHT_BYTES[config.export.dtype]),
    }


def _teachers(context: Context) -> list[TeacherConfig]:
    config = context.config
    other = config.kd_teacher if distill.loads_kd_teacher(context) else None
    return [config.teacher] if other is None or other == config.teacher else [config.teacher, other]


def _versions(context: Context, teacher: TeacherConfig) -> list[Architecture]:
    """As its source has it, and with the vocabulary of space.vocabulary: text and teachers are kept in both."""
    whole = context.describe(teacher)
    return [whole] if context.uncut_vocabulary is None else [whole, context.with_vocabulary(teacher)]


def _weights(context: Context, teacher: TeacherConfig) -> int:
    return WEIGHT_BYTES[teacher.dtype] * sum(map(parameters, _versions(context, teacher)))


def _text_tokens(context: Context) -> int:
    """The whole text is kept, however much of it a budget reads; of a text of unknown size, what the budget reads."""
    return epochs.text_tokens(context, CHARACTERS_PER_TOKEN) or budget(context)


def _token_bytes(architecture: Architecture) -> int:
    return token_dtype(architecture.vocab_size).itemsize


def _exported(context: Context, sub: SubNetwork) -> int:
    """Parameters of the export; 0 if there is none."""
    config = context.config.export
    return exported(context.architecture, sub, config.form).parameters if config.to is not None else 0
