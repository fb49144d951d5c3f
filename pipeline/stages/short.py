"""Short training: what a sub-network reaches after a small token budget, for the search's rerank and for the study."""

import gc
import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from litgpt import GPT

from pipeline.config import CacheConfig, CheckpointConfig, DistillConfig, material
from pipeline.errors import NotFinite, SprigError
from pipeline.models.extraction import extract
from pipeline.ranks import world_size
from pipeline.stages import budget, order, recover
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.counting import flops_per_token, training_flops
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.distill import distill, steps_of
from pipeline.training.fitting import fitted
from pipeline.training.metrics import METRICS
from pipeline.training.schedules import check_schedule
from pipeline.training.validation import shared_nll

SCRATCH = "training"  # in the folder of what asks for short trainings, until that is finished

# What a short training has of its own.
OWN = ("init", "from_run", "control", "cache", "validations", "validation_tokens")


def settings(context: Context, tokens: int, lr: float) -> DistillConfig:
    """The run's distillation at a budget of its own: the teacher runs along, and the loss is measured at the end."""
    return replace(
        budget.settings(context),
        tokens=tokens,
        lr=lr,
        validations=1,
        validation_tokens=None,
        cache=CacheConfig(),
        checkpoint=CheckpointConfig(tokens=tokens, minutes=context.config.distill.checkpoint.minutes, keep=1),
    )


def recipe_part(context: Context, roots: Roots, tokens: int, lr: float) -> dict:
    """What determines the loss that a sub-network reaches, in addition to the inputs."""
    return material(settings(context, tokens, lr), *OWN) | {
        "seed": context.config.seed,
        "precision": context.precision,
        "kd_teacher": roots.kd_teacher.fingerprint if context.config.distill.distils else None,
        **({"recover": recover.own(context)} if recover.applies(context, "student") else {}),
    }


def check(context: Context, key: str, tokens: int, lr: float) -> None:
    """Raises SprigError where a short training cannot be: `key` is the configuration's name for its budget."""
    if world_size() > 1:
        asks = key.rpartition(".")[0]
        raise SprigError(f"{asks} trains in one process, but {world_size()} were started: start it without torchrun.")
    config = settings(context, tokens, lr)
    length = context.config.data.block_size
    if tokens < (batch := config.global_batch * length):
        raise SprigError(
            f"{key}={tokens:,} is below one batch of {config.global_batch} blocks x {length:,} = {batch:,} tokens: "
            f"raise {key}, or lower distill.global_batch."
        )
    check_schedule(config.schedule, steps_of(config, length) * config.global_batch * length)


def flops(context: Context, forward: int, tokens: int, lr: float) -> int:
    """Of one short training of a sub-network whose forward pass costs `forward` FLOPs per token, the teacher's passes
    included."""
    config, length = settings(context, tokens, lr), context.config.data.block_size
    trained = steps_of(config, length) * config.global_batch * length
    teacher = flops_per_token(context.kd_architecture, length=length) if config.distils else 0
    return trained * (training_flops(forward) + teacher)


def start(context: Context, roots: Roots, sub: SubNetwork) -> GPT:
    """A sub-network as its trainings begin: cut out of the teacher, and recovered where the run's student is."""
    ordering = order.load(context, roots.ordering)
    student = extract(context.teacher(roots.teacher, context.config.teacher), sub, ordering).float()
    if recover.applies(context, "student"):
        recover.refit(context, roots, student, sub)
    return student


def train(
    context: Context,
    roots: Roots,
    sub: SubNetwork,
    student: GPT,
    tokens: int,
    lr: float,
    held_out: torch.Tensor,
    folder: Path,
) -> float:
    """The loss in nats per token on `held_out` blocks (n, T + 1) after the short training of a sub-network; inf where
    the training diverged. `student` is its start, and is trained in place. `folder` is scratch of all trainings with
    these settings: an interrupted one resumes there, a finished one leaves nothing.
    """
    config, folder = settings(context, tokens, lr), folder / sub.key
    teacher_config = context.config.kd_teacher or context.config.teacher
    folder.mkdir(parents=True, exist_ok=True)

    def train_once(layout: DistillConfig) -> GPT:
        return distill(
            student.train(),
            context.teacher(roots.kd_teacher, teacher_config) if config.distils else None,
            None,
            context.blocks(roots.tokens, "train"),
            layout,
            lr=lr,
            deepspeed=context.config.deepspeed,
            seed=context.config.seed,
            precision=context.precision,
            device=context.device,
            folder=folder,
            run=sub.key,
            flops=budget.token_flops(context, sub, config),
            validate=partial(
                shared_nll, blocks=held_out, batch=context.config.evaluate.batch, precision=context.precision
            ),
            log=lambda line: None,
        )

    try:
        _, context.micro_batch = fitted(folder, config, train_once)
        lines = map(json.loads, (folder / METRICS).read_text(encoding="utf-8").splitlines())
        reached = [line["validation_nll"] for line in lines if "validation_nll" in line][-1]
    except NotFinite:
        reached = math.inf
    # In one step: of a folder that a kill left half removed, the training would resume from its end, without its loss.
    ended = folder.with_name(f"{folder.name}.ended")
    shutil.rmtree(ended, ignore_errors=True)
    folder.rename(ended)
    shutil.rmtree(ended)
    gc.collect()  # the engine lies in reference cycles: after ten trainings 6 GB were taken, and the kernel killed it
    return reached
