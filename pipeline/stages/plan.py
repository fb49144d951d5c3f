"""Before anything runs: does the configuration fit the teacher, and what would the run cost."""

import numpy as np
import torch

from pipeline.config import Layers, OrderingKind, Strategy
from pipeline.errors import SprigError
from pipeline.ranks import local_world_size, world_size
from pipeline.stages import distill, evaluate, search
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.training.engine import batching, check_precision

SAMPLES = 64  # sub-networks that stand for the space in an estimate
ADAM_BYTES = 16  # an fp32 weight with its gradient and both moments
CHECKPOINT_BYTES = 12  # an fp32 weight with both moments


def check(context: Context) -> None:
    """Rejects what cannot work before any weight is loaded.

    Raises:
        SprigError: says which two values do not fit, and the cure.
    """
    config, architecture = context.config, context.architecture
    if config.data.block_size > architecture.context:
        raise SprigError(
            f"data.block_size={config.data.block_size} exceeds the context of teacher {config.teacher.name}, "
            f"{architecture.context}: lower data.block_size."
        )
    if config.search.strategy == Strategy.given:
        search.read_given(context)
    else:
        context.space(Ordering.identity(architecture))
    if config.space.layers == Layers.rank and config.ordering.kind == OrderingKind.none:
        raise SprigError(
            "space.layers=rank needs to know which layers matter, but ordering.kind=none ranks none: use "
            "ordering=importance, or space.layers=prefix."
        )
    distill.budget(context)
    batching(config.distill, world_size())
    check_precision(context.precision, config.deepspeed)
    if context.device.type == "cuda" and local_world_size() > torch.cuda.device_count():
        raise SprigError(
            f"{local_world_size()} processes on this machine but {torch.cuda.device_count()} GPUs: start at most that "
            "many, or set device=cpu."
        )


def table(context: Context) -> list[tuple[str, str]]:
    """What a run would do: shapes, parameters, FLOPs of each stage, memory, disk and tokens, in rows of name and value.

    Nothing is loaded and nothing is run, so it works for teachers whose weights are not here. Figures of the student
    are the median over sampled sub-networks of the bin, or the given one's.
    """
    config, teacher, length = context.config, context.architecture, context.config.data.block_size
    if config.search.strategy == Strategy.given:
        students = [search.read_given(context)]
    else:
        space = context.space(Ordering.identity(teacher))
        rng = np.random.default_rng(config.seed)
        students = [space.sample(rng) for _ in range(SAMPLES)]
    size = int(np.median([parameters(teacher, sub) for sub in students]))
    forward = int(np.median([flops_per_token(teacher, sub, length=length) for sub in students]))
    depth = sorted(sub.n_layer for sub in students)
    width = sorted(sub.n_embd for sub in students)
    teacher_forward = flops_per_token(teacher, length=length)
    kd_forward = flops_per_token(context.kd_architecture, length=length) if config.distill.beta > 0 else 0

    count = search.evaluations(config.search)
    searched = count * config.search.blocks * length
    ordered = config.ordering.blocks * length if config.ordering.kind != OrderingKind.none else 0
    trained, runs = distill.budget(context), len(evaluate.roles(context))
    training = f"{3 * forward * trained:.3g} student + {kd_forward * trained:.3g} teacher FLOPs"
    weight_bytes = 4 if config.teacher.dtype == "fp32" else 2
    teacher_bytes = parameters(teacher) * weight_bytes
    kd_bytes = parameters(context.kd_architecture) * weight_bytes if kd_forward else 0
    logits = config.distill.chunk_tokens * teacher.padded_vocab_size * 4
    ranks = world_size()
    sharded = ADAM_BYTES * size // (ranks if config.deepspeed.zero_stage == 3 else 1)
    students_disk, checkpoints_disk = _bytes(2 * runs * 4 * size), _bytes(2 * CHECKPOINT_BYTES * size)
    baseline = f", and as many random ones ({forward * searched:.3g} FLOPs)" if config.search.random_baseline else ""
    return [
        ("teacher", f"{config.teacher.name}: {_shape(teacher)}"),
        (
            "teacher's parameters",
            f"{parameters(teacher):,} ({parameters(teacher, count='non_embedding'):,} non-embedding)",
        ),
        ("bin", str(context.bin)),
        ("space", f"{config.space.granularity} {config.space.sharing}, layers by {config.space.layers}"),
        ("student", f"{depth[0]} to {depth[-1]} layers, width {width[0]} to {width[-1]}, about {size:,} parameters"),
        ("FLOPs a token, forward", f"teacher {teacher_forward:.3g}, student {forward:.3g}"),
        ("order", f"{ordered:,} tokens, {teacher_forward * ordered:.3g} FLOPs"),
        ("search", f"{count:,} candidates, {searched:,} tokens, {forward * searched:.3g} FLOPs{baseline}"),
        (
            "distill",
            f"{runs} x {trained:,} tokens, each {training}",
        ),
        ("processes", f"{ranks} on {context.device.type}, {context.precision}, ZeRO {config.deepspeed.zero_stage}"),
        ("memory a process, search", f"{_bytes(teacher_bytes + 4 * size)} of weights"),
        (
            "memory a process, distill",
            f"{_bytes(kd_bytes + sharded)} of weights and states, {_bytes(logits)} a chunk of logits",
        ),
        (
            "disk",
            f"teacher {_bytes(teacher_bytes)}, students {students_disk}, checkpoints {checkpoints_disk}",
        ),
    ]


def _shape(a) -> str:
    heads = f"{a.n_head} heads in {a.n_query_groups} groups" if a.n_query_groups != a.n_head else f"{a.n_head} heads"
    return f"{a.n_layer} layers, width {a.n_embd}, {heads} of {a.head_size}, MLP {a.intermediate_size}"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
