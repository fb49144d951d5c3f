"""The micro-batch of a training where the configuration leaves it open: the most that the device is sure to hold.

An estimate from above, from the teacher's sizes and the bin, so that every rank and every plan finds the same one.
"""

import os
from dataclasses import replace
from functools import lru_cache

import torch

from pipeline.config import DistillConfig, Dtype
from pipeline.ranks import local_world_size, world_size
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import parameters

SHARE = 0.8  # of the device's memory: the rest is for what the estimate leaves out
STATE_BYTES = 16  # an fp32 weight, its gradient and both moments
LOGITS = 6  # copies of a chunk's logits: both models', their log-probabilities and gradients
PLANNED_BYTES = 80 * 2**30  # of a GPU that is not here
MOST_TOKENS = {"cuda": 1 << 16, "cpu": 1 << 13}  # of a forward pass: beyond this, nothing is faster


def settings(context: Context) -> DistillConfig:
    """The distillation's configuration with a micro-batch."""
    config = context.config.distill
    if config.micro_batch is not None:
        return config
    ranks = context.config.deepspeed.world_size or world_size()
    share = max(config.global_batch // ranks, 1)
    fits = max(min(_blocks(context), share), 1)
    return replace(config, micro_batch=max(each for each in range(1, fits + 1) if share % each == 0))


def _blocks(context: Context) -> int:
    """Blocks whose forward and backward pass the device is sure to hold."""
    length = context.config.data.block_size
    room = SHARE * device_memory(context.device) - kept_bytes(context)
    return min(
        int(room // (length * activation_bytes(context.architecture))), MOST_TOKENS[context.device.type] // length
    )


def kept_bytes(context: Context) -> int:
    """Bytes that a training needs whatever the micro-batch: teacher, student with its states, a chunk of logits."""
    config, kd = context.config, context.kd_architecture
    teacher = parameters(kd) * (4 if (config.kd_teacher or config.teacher).dtype == Dtype.fp32 else 2)
    logits = LOGITS * 4 * config.distill.chunk_tokens * kd.padded_vocab_size
    return teacher + STATE_BYTES * context.bin.high + logits


def activation_bytes(a: Architecture) -> int:
    """Bytes that training keeps of one token, at most: every block's inputs, norms, q, k and v before and after the
    rotation, the attention's output, and the MLP's hidden layers, in fp32."""
    queries, keys = a.n_head * a.head_size, a.n_query_groups * a.head_size
    return 4 * a.n_layer * (10 * a.n_embd + 6 * queries + 8 * keys + 5 * a.intermediate_size)


@lru_cache
def device_memory(device: torch.device) -> int:
    """Bytes that one process has."""
    if device.type == "cuda":
        here = torch.cuda.is_available()
        return torch.cuda.get_device_properties(device).total_memory if here else PLANNED_BYTES
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local_world_size()
