"""The speed of this run's training on this device, timed over a few steps of models with random weights."""

from dataclasses import replace
from functools import partial
from time import perf_counter

import torch
from litgpt import GPT

from pipeline.config import DeepSpeedConfig, Loss, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import vocabulary
from pipeline.models.precision import frozen
from pipeline.models.sources import DTYPES, shape
from pipeline.models.student import build
from pipeline.ranks import world_size
from pipeline.stages.budget import settings
from pipeline.stages.context import Context
from pipeline.stages.distill import layout
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.batch import Batch
from pipeline.training.distributed import start
from pipeline.training.engine import Batching, Engine, compile_blocks
from pipeline.training.losses import distillation_loss

SECONDS = 20  # of timed steps; at least one, after one to warm up
ACCUMULATED = 4  # micro-batches of a timed step, at most


def tokens_per_second(context: Context, student: SubNetwork) -> float:
    """Tokens per second that one process trains this student on, the teacher's forward pass included where it runs
    along.

    A training from cached logits is timed with cross-entropy, which costs the same within a few percent
    (benchmarks/RESULTS.md). Reading text, validation, checkpoints and communication between processes are not included.

    Raises:
        SprigError: this is one of several processes, the GPU that is planned for is not here, or a step does not fit
            the device's memory.
    """
    if world_size() > 1:
        raise SprigError(
            f"plan=measure times one process, and this is one of {world_size()}: start it without torchrun."
        )
    if context.device.type == "cuda" and not torch.cuda.is_available():
        raise SprigError("plan=measure times the device, and this machine has no GPU: use plan=true for an estimate.")
    try:
        return _timed(context, student)
    except torch.OutOfMemoryError:
        raise SprigError(
            f"A training step with distill.micro_batch={settings(context).micro_batch} does not fit the memory of one "
            "device: lower it, or set distill.activation_checkpointing=true."
        ) from None


def _timed(context: Context, sub: SubNetwork) -> float:
    device, length = start(context.device), context.config.data.block_size
    planned, config = layout(context), settings(context)
    if config.cached:
        config = replace(config, loss=Loss.ce)
    teacher = None
    if config.distils:
        original = context.config.kd_teacher or context.config.teacher
        teacher = _random(context, original, None, device, DTYPES[original.dtype]).requires_grad_(False).eval()
        teacher = frozen(teacher, context.precision)
        if config.compile:
            compile_blocks(teacher)
    student = _random(context, context.config.teacher, sub, device, torch.float32)
    batches = Batching(planned.micro_batch, min(planned.accumulation, ACCUMULATED), ranks=1)
    # One process has nothing to shard, but DeepSpeed's bf16 needs stage 1.
    alone = DeepSpeedConfig(zero_stage=1 if context.precision == "bf16" else 0)
    engine = Engine(student, config, alone, batches, context.precision, device)
    tokens = Batch(torch.randint(context.architecture.vocab_size, (batches.micro_batch, length + 1)))
    step = partial(
        engine.step,
        [tokens] * batches.accumulation,
        lambda model, batch: distillation_loss(model, teacher, batch, config),
        lr=0.0,  # random weights that do not move stay finite
    )
    step()  # allocates and compiles
    steps, started = 0, perf_counter()
    while not steps or perf_counter() - started < SECONDS:
        step()  # it returns numbers, so the device has finished
        steps += 1
    took = perf_counter() - started
    engine.close()
    return steps * batches.global_batch * length / took


def _random(
    context: Context, teacher: TeacherConfig, sub: SubNetwork | None, device: torch.device, dtype: torch.dtype
) -> GPT:
    """The teacher, or a sub-network of it."""
    config, tied = shape(teacher)
    return filled(build(vocabulary.of_size(config, context.config.space.vocabulary), sub, tied, device, dtype))


@torch.no_grad()
def filled(model: GPT) -> GPT:
    """The model with random weights, drawn on its device: enough where only time and memory count."""
    for parameter in model.parameters():
        parameter.normal_(0, 0.02)
    return model
