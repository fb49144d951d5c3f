"""Stage cache: the teacher's logits on the blocks that a run reads (`distill.cache`), filled before distillation.

The one artifact that grows. What is published, in one rename as always, is a manifest that says of which teacher, text
and settings it is, and that the folder `records` grows: it has a checksum for every block, gains the blocks that a run
lacks, and is never wrong, only incomplete (see pipeline.artifacts.records). Distillation has it filled; by
itself, on request, the stage fills it for runs to come: stages=[prepare,cache].
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from litgpt import GPT

from pipeline.artifacts import MANIFEST, Recipe, locked, read_manifest
from pipeline.config import CacheKind, CacheMode
from pipeline.errors import SprigError
from pipeline.ranks import rank, world_size
from pipeline.stages import prepare
from pipeline.stages.budget import budget
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.counting import flops_per_token
from pipeline.training import distributed
from pipeline.training.cache import RECORDS, LogitsCache
from pipeline.training.cached import token_dtype
from pipeline.training.order import block_numbers
from pipeline.training.throughput import matrix_flops

STAGE, VERSION = "cache", 4
VERIFIED = 10  # purpose of the generator


def recipe(context: Context, roots: Roots) -> Recipe:
    config = context.config
    kept = {"kind": config.distill.cache.kind, "slots": config.distill.cache.slots}
    return Recipe(
        STAGE,
        VERSION,
        kept | {"temperatures": config.distill.cache_temperatures, "precision": context.precision},
        {"teacher": roots.kd_teacher.fingerprint, "tokens": roots.tokens.fingerprint},
    )


def needs_teacher(context: Context) -> bool:
    """Whether a distillation has to load its teacher."""
    distill = context.config.distill
    return distill.distils and not (
        distill.cached and distill.cache.mode == CacheMode.read and not distill.cache.verify
    )


def check(context: Context) -> None:
    """Raises SprigError where more ids per token would be kept than there are others."""
    settings, vocabulary = context.config.distill.cache, context.kd_architecture.vocab_size
    if settings.kind != CacheKind.off and settings.slots >= vocabulary:
        raise SprigError(
            f"distill.cache.slots={settings.slots} with a vocabulary of {vocabulary:,}: keep at most "
            f"{vocabulary - 1:,}."
        )


def check_found(context: Context, roots: Roots) -> None:
    """Raises SprigError where the cache may only be read, and is not there or is of something else."""
    if context.config.distill.cache.mode == CacheMode.read:
        _found(context, recipe(context, roots))


def teacher_flops(context: Context, trained: int) -> int:
    """Of the KD teacher's passes for a training on `trained` tokens: over each of them, or with a cache over each block
    once, however often it is trained on."""
    config = context.config
    if not config.distill.distils:
        return 0
    tokens = _kept(context, trained) if config.distill.cached else trained
    return flops_per_token(context.kd_architecture, length=config.data.block_size) * tokens


def _kept(context: Context, trained: int) -> int:
    """Tokens whose logits a training on `trained` tokens needs: at most as many as the prepared text has."""
    tokens = prepare.tokens_recipe(context)
    if context.store.find(tokens) is None:
        return min(trained, context.config.data.max_tokens or trained)
    blocks = context.blocks(tokens, "train")
    return min(trained, len(blocks) * blocks.block_size)


def _token_bytes(context: Context) -> int:
    """Of one token in the cache's records."""
    distill = context.config.distill
    return token_dtype(distill.cache, distill.cache_temperatures, context.kd_architecture.vocab_size).itemsize


def cost(context: Context) -> tuple[int, int, int, float | None]:
    """Tokens, bytes and FLOPs of filling an empty cache for this run; seconds, at the speed at which this processor
    multiplies matrices, or None where it is not the one that is planned for."""
    trained = budget(context)
    tokens, flops = _kept(context, trained), teacher_flops(context, trained)
    if context.device.type == "cuda" and not torch.cuda.is_available():
        return tokens, size(context), flops, None
    speed = matrix_flops(context.device, context.precision)
    return tokens, size(context), flops, flops / speed / world_size()


def size(context: Context) -> int:
    """Bytes of a cache with all that this run reads."""
    return _token_bytes(context) * _kept(context, budget(context))


def complete(context: Context, roots: Roots) -> LogitsCache:
    """The cache with every block that this run reads. All ranks call it together, and each fills its share.

    Raises:
        SprigError: the cache may only be read and lacks blocks, is of something else, or fails its verification.
        OSError: the disk is full or not writable; what was added stays.
    """
    config, made = context.config, recipe(context, roots)
    settings, teacher = config.distill.cache, config.kd_teacher or config.teacher
    blocks = context.blocks(roots.tokens, "train")
    wanted = budget(context) // blocks.block_size
    numbers = block_numbers(len(blocks), config.seed, 0, min(wanted, len(blocks)))

    def load() -> GPT:
        return context.teacher(roots.kd_teacher, teacher)

    distributed.start(context.device)
    if settings.mode == CacheMode.read:
        folder = _found(context, made)
    else:
        folder = context.store.obtain(made, lambda _: None, grows={RECORDS: _token_bytes(context) * blocks.block_size})
    cache = LogitsCache(folder, made.fingerprint, blocks, context.kd_architecture.vocab_size, config.distill)
    if settings.mode == CacheMode.read:
        cache.check_complete(numbers)
    else:
        # For one job at a time: another would compute the same blocks.
        with locked(folder) if rank() == 0 else nullcontext():
            distributed.broadcast(None)
            cache.fill(numbers, load, context.precision)
            torch.distributed.barrier()
        cache.refresh()  # with what the other ranks have added
    if settings.verify and rank() == 0:
        count = min(settings.verify, len(numbers))
        chosen = np.random.default_rng([config.seed, VERIFIED]).choice(numbers, count, replace=False)
        cache.verify(chosen, load(), context.precision)
    return cache


def _found(context: Context, made: Recipe) -> Path:
    """The folder to read from.

    Raises:
        SprigError: there is none, or it is of something else.
    """
    path, filling = context.config.distill.cache.path, context.config.distill.filling
    folder = Path(path) if path else context.store.path(made)
    if not (folder / MANIFEST).exists() or not (folder / RECORDS).exists():
        raise SprigError(f"There is no logits cache in {folder} and distill.cache.mode=read: fill one with {filling}.")
    manifest = read_manifest(folder)
    for name, wanted in made.inputs.items():
        if (found := manifest["inputs"].get(name)) != wanted:
            raise SprigError(
                f"The logits cache in {folder} was filled with {name} {found}, but this run's {name} is {wanted}: set "
                f"distill.cache.path to a cache of {wanted}, or fill one with {filling}."
            )
    for name, wanted in made.config.items():
        if (found := manifest["config"].get(name)) != wanted:
            raise SprigError(
                f"The logits cache in {folder} was filled with {name}={found}, and this run has {name}={wanted}: set "
                f"the same, or fill another with {filling}."
            )
    if manifest["fingerprint"] != made.fingerprint:
        raise SprigError(
            f"The logits cache in {folder} is {manifest['fingerprint']}, of stage version {manifest['version']}, and "
            f"this run reads {made.fingerprint}, of version {made.version}: fill one with {filling}."
        )
    return folder
