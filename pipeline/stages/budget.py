"""How a run trains: its token budget in whole batches, and what one process takes at a time."""

from dataclasses import replace

from pipeline.config import Count, DeepSpeedConfig, DistillConfig
from pipeline.ranks import world_size
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import flops_per_token, outer_parameters, parameters, training_flops
from pipeline.subnetwork.value import SubNetwork, whole
from pipeline.training.distill import steps_of
from pipeline.training.memory import WEIGHT_BYTES, Need, Online, device_memory, training
from pipeline.training.throughput import Flops

SHARE = 0.8  # of the device's memory: the rest is for what the count leaves out
MOST_TOKENS = {"cuda": 1 << 16, "cpu": 1 << 13}  # of a forward pass: beyond this, nothing is faster


def batch_tokens(context: Context) -> int:
    return context.config.distill.global_batch * context.config.data.block_size


def budget(context: Context) -> int:
    """Tokens that a student is trained on."""
    return steps_of(context.config.distill, context.config.data.block_size) * batch_tokens(context)


def token_flops(context: Context, sub: SubNetwork, distill: DistillConfig) -> Flops:
    """Of training a student on one token."""
    length = context.config.data.block_size
    return Flops(
        training_flops(flops_per_token(context.architecture, sub, length=length)),
        flops_per_token(context.kd_architecture, length=length) if distill.online else 0,
    )


def memory(
    context: Context,
    sub: SubNetwork,
    distill: DistillConfig,
    deepspeed: DeepSpeedConfig | None = None,
    size: int | None = None,
) -> Need:
    """Of training a student, of `size` parameters if that is given instead of its own; `distill` has a micro-batch."""
    config, a, layout = context.config, context.architecture, deepspeed or context.config.deepspeed
    online = None
    if distill.online:
        kd = context.kd_architecture
        entry = WEIGHT_BYTES[(config.kd_teacher or config.teacher).dtype]
        if entry == 4 and context.precision != "fp32":
            entry += 2  # a twin for this, see pipeline.models.precision.frozen
        online = Online(parameters(kd) * entry, kd.n_embd)
    return training(
        a,
        sub,
        size or parameters(a, sub),
        online,
        distill,
        layout,
        ranks=layout.world_size or world_size(),
        block_size=config.data.block_size,
        precision=context.precision,
    )


def settings(context: Context) -> DistillConfig:
    """The distillation's configuration with a micro-batch; where that is null, the most that the device surely holds.

    Counted for a student with all of the teacher's layers and the bin's most parameters, so that every rank, every plan
    and every student of a run has the same one.
    """
    config, a = context.config.distill, context.architecture
    if context.micro_batch is not None:
        return replace(config, micro_batch=context.micro_batch)
    if config.micro_batch is not None:
        return config
    ranks = context.config.deepspeed.world_size or world_size()
    share = max(config.global_batch // ranks, 1)
    most = max(min(share, MOST_TOKENS[context.device.type] // context.config.data.block_size), 1)
    size = parameters(a)
    if context.bin.count != Count.active:  # whatever else the bin counts
        size = min(size, context.bin.high + outer_parameters(a, a.n_embd))
    room = SHARE * device_memory(context.device)
    for blocks in (each for each in range(most, 1, -1) if share % each == 0):
        tried = replace(config, micro_batch=blocks)
        if memory(context, whole(a), tried, size=size).total <= room:
            return tried
    return replace(config, micro_batch=1)
