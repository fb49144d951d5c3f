"""A tiny tied student with grouped queries, its wider teacher, and token blocks: what the training tests share."""

import json
import time
from functools import partial

import pipeline.quick_imports  # noqa: F401  # before litgpt, whose import takes seconds without it

# isort: split
import numpy as np
import pytest
import torch
from litgpt import GPT, Config

from pipeline.config import (
    CacheConfig,
    CheckpointConfig,
    DeepSpeedConfig,
    DistillConfig,
    ScheduleConfig,
    ScheduleKind,
)
from pipeline.models.student import build, initialize
from pipeline.ranks import rank
from pipeline.training import checkpoints
from pipeline.training.distill import distill
from pipeline.training.losses import distillation_loss
from pipeline.training.throughput import Flops
from pipeline.training.validation import shared_nll

SEED, LR, STEPS = 3, 1e-2, 6
SLOW_STEPS = 120  # of a training that is killed again and again


def _model(width: int, rows: int, tied: bool, vocab_size: int, **fields) -> GPT:
    config = Config(
        n_layer=2,
        n_embd=width,
        n_head=4,
        n_query_groups=2,
        head_size=8,
        intermediate_size=48,
        vocab_size=vocab_size,
        padded_vocab_size=rows,
        block_size=32,
        norm_class_name="RMSNorm",
        **{"mlp_class_name": "LLaMAMLP"} | fields,
        bias=False,
        parallel_residual=False,
        rotary_percentage=1.0,
    )
    model = build(config, None, tied)
    initialize(model, seed=width)
    return model


def student() -> GPT:
    return _model(24, 96, tied=True, vocab_size=90)


def mixture() -> GPT:
    """A student whose MLPs are mixtures of experts."""
    return _model(24, 96, tied=True, vocab_size=90, mlp_class_name="LLaMAMoE", n_expert=5, n_expert_per_token=2)


def teacher(vocab_size: int = 90) -> GPT:
    return _model(40, 128, tied=False, vocab_size=vocab_size)


class TinyBlocks:
    """20 blocks of 16 targets; `take` raises after `lives` calls."""

    block_size, vocab_size = 16, 90
    tokens = torch.randint(90, (20, 17), generator=torch.Generator().manual_seed(1))

    def __init__(self, lives: float = float("inf")):
        self.lives = lives

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, numbers: np.ndarray) -> torch.Tensor:
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        return self.tokens[torch.as_tensor(np.asarray(numbers, np.int64))]


def settings(**changes) -> DistillConfig:
    plain = {"tokens": STEPS * 64 + 10, "alpha": 0.5, "beta": 0.5, "temperature": 2.0, "lr": LR, "global_batch": 4}
    plain |= {"micro_batch": 2, "chunk_tokens": 7, "clip": 0.5, "validations": 3}
    return DistillConfig(**plain | {"checkpoint": CheckpointConfig(tokens=128)} | changes)


def budget(steps: int, kind: str = "off") -> DistillConfig:
    """Of so many steps with a wsd schedule, whose decay is the last quarter; `kind` of the logits cache."""
    wsd = ScheduleConfig(kind=ScheduleKind.wsd, warmup_tokens=128, decay=0.25, floor=0.0)
    return settings(tokens=64 * steps, schedule=wsd, validation_tokens=128, cache=CacheConfig(kind=kind, slots=8))


def validation_nll(model: GPT, precision: str) -> float:
    return shared_nll(model, TinyBlocks.tokens[:6], 2, precision)  # three batches: two ranks have unequal shares


def train(
    folder,
    *,
    config=None,
    stage=0,
    lives=float("inf"),
    precision="fp32",
    lr=LR,
    log=lambda line: None,
    given=None,
    validate=None,
    cache=None,
    run="tiny",
    deepspeed=None,
    **options,
):
    config = config or settings()
    return distill(
        given or student(),
        teacher() if config.distils and cache is None else None,
        cache,
        TinyBlocks(lives),
        config,
        lr=lr,
        deepspeed=deepspeed or DeepSpeedConfig(stage),
        seed=SEED,
        precision=precision,
        device=torch.device("cpu"),
        folder=folder,
        run=run,
        flops=Flops(student=300, teacher=200),
        validate=validate or partial(validation_nll, precision=precision),
        log=log,
        **options,
    )


def stable_phase(folder, steps: int, config: DistillConfig, **options):
    """That of a training whose decay begins after `steps`, as another training can go on from it."""
    train(folder, config=config, until=steps, **options)
    if rank() == 0:
        checkpoints.publish(folder, steps)
    return folder


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def step_lines(folder) -> list[dict]:
    return [line for line in metrics(folder) if "loss" in line]


def assert_near(lines, wanted, relative=1e-5):
    assert [line.keys() for line in lines] == [line.keys() for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert line == pytest.approx(other, rel=relative)


def assert_same_weights(state, wanted, **tolerance):
    assert state.keys() == wanted.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], **tolerance or {"rtol": 0, "atol": 0}, msg=name)


def spiking(of: str, at: int):
    """distillation_loss, but "loss" or "gradient" of the second micro-batch of step `at` is NaN."""
    calls = []

    def loss(*arguments):
        calls.append(None)
        value, *parts = distillation_loss(*arguments)
        if len(calls) == 2 * at and of == "loss":
            value = value * float("nan")
        elif len(calls) == 2 * at:
            value.register_hook(lambda gradient: gradient * float("nan"))
        return value, *parts

    return loss


def interrupt(folder, **options):
    with pytest.raises(KeyboardInterrupt):
        train(folder, lives=2 * 4 + 1, **options)  # two micro-batches a step: in the middle of the fifth
    assert [line["step"] for line in step_lines(folder)][-1] == 4


def train_slowly(folder, config, background):
    """For a process that is to be killed."""
    checkpoints.in_background = lambda device: background
    train(folder, config=config, log=lambda line: time.sleep(0.05))
