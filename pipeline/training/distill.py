"""Pretraining with knowledge distillation: the loop over optimizer steps."""

import copy
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from litgpt import GPT

from pipeline.config import DeepSpeedConfig, DistillConfig
from pipeline.data.blocks import Blocks
from pipeline.errors import Interrupted, NotFinite, SprigError
from pipeline.models.precision import frozen
from pipeline.preemption import deferred
from pipeline.ranks import rank, world_size
from pipeline.training import checkpoints, distributed
from pipeline.training.batch import Batch
from pipeline.training.cache import LogitsCache
from pipeline.training.checkpoints import Position, Writer
from pipeline.training.engine import Engine, batching, compile_blocks
from pipeline.training.losses import check_vocabularies, distillation_loss
from pipeline.training.metrics import Metrics
from pipeline.training.order import block_numbers
from pipeline.training.prefetch import prefetched
from pipeline.training.schedules import learning_rate
from pipeline.training.state import tensors
from pipeline.training.throughput import Flops

CHECKPOINTS = 10  # of a budget, where distill.checkpoint.tokens says nothing

logger = logging.getLogger("sprig")


def steps_of(config: DistillConfig, block_size: int) -> int:
    """Optimizer steps of the token budget, rounded down to whole global batches.

    Raises:
        SprigError: the budget is below one batch.
    """
    batch = config.global_batch * block_size
    if config.tokens < batch:
        raise SprigError(
            f"distill.tokens={config.tokens:,} is below one batch of {config.global_batch} blocks x {block_size:,} = "
            f"{batch:,} tokens: raise distill.tokens or lower distill.global_batch."
        )
    return config.tokens // batch


def validation_steps(config: DistillConfig, block_size: int) -> int:
    """Optimizer steps from one point of the validation curve to the next; the last step has a point in any case."""
    return _interval(config.validation_tokens, config.validations, config, block_size)


def _interval(tokens: int | None, count: int, config: DistillConfig, block_size: int) -> int:
    """Steps of `tokens`, to the nearest whole number; where that is None, of the budget's part in `count`."""
    if tokens is None:
        return math.ceil(steps_of(config, block_size) / count)
    return max(1, round(tokens / (config.global_batch * block_size)))


def distill(
    student: GPT,
    teacher: GPT | None,
    cache: LogitsCache | None,
    blocks: Blocks,
    config: DistillConfig,
    *,
    lr: float,
    deepspeed: DeepSpeedConfig,
    seed: int,
    precision: str,
    device: torch.device,
    folder: Path,
    run: str,
    flops: Flops,
    validate: Callable[[GPT], float],
    log: Callable[[dict], None],
    per_byte: Callable[[float], float] | None = None,
    begin: Path | None = None,
    until: int | None = None,
) -> GPT:
    """Trains the student on `config.tokens` tokens, from the newest checkpoint in `folder` where there is one.

    Called by every rank of a torchrun job alike, or by a lone process. `folder` then holds `checkpoints/`, which are
    the caller's to remove, and `metrics.jsonl`, whose lines are
    {"step", "tokens", "loss", "ce", "kl", "grad_norm", "lr", "student_flops", "teacher_flops"} for an optimizer step:
    loss and its parts are those of the step's batch before its update, in nats, kl is the divergence of `config.loss`,
    grad_norm is before clipping, FLOPs are those of all tokens so far;
    {"step", "tokens", "skipped"} for one that was skipped, with the running count;
    {"step", "tokens", "validation_nll"} for a point of the validation curve, the first at token 0, with
    "bits_per_byte" if `per_byte` is given.

    Args:
        student: its fp32 weights are where training starts, and are overwritten with where it ends. It is moved to the
            CPU, so that the copy which trains is the only one on the device.
        teacher: moved to the device and frozen; not needed with a cache, or where config.distils is false.
        cache: what is kept of the teacher, complete for this training; None to run the teacher along.
        lr: the peak learning rate.
        precision: "fp32", "bf16-mixed" or "bf16" (DeepSpeed's own, from ZeRO stage 1 up).
        run: the fingerprint of what is trained; checkpoints of another run are refused.
        flops: of one token.
        validate: the mean validation NLL in nats of the model that it is given. All ranks call it together, without
            gradients, in evaluation mode and under `precision`. The model's submodules must be called as modules: under
            ZeRO-3 that is what gathers their weights.
        log: called on rank 0 with every metrics line as it comes, steps with "tokens_per_second" and "mfu" added (None
            where the device's peak is unknown). If it resumed from a checkpoint, the first call is {"step",
            "tokens", "resumed": True}: what was trained before.
        per_byte: the bits per byte of a validation NLL.
        begin: a folder of checkpoints.publish, the same training up to some step: a fresh training starts from there.
        until: ends after this optimizer step instead of the last one, which is that of the schedule all the same.

    Returns:
        The student handed in, trained, on the CPU, on every rank.

    Raises:
        SprigError: budget, batch sizes, ranks, devices or vocabularies do not fit, a checkpoint in `folder` is of
            another run, or the training or validation loss is no longer finite.
        Interrupted: a signal came (see pipeline.preemption); the checkpoint of the step that was running is written.
        OSError: a checkpoint could not be written, on a full disk say; those before it are whole.
    """
    if blocks.vocab_size != student.config.vocab_size:
        raise SprigError(
            f"The text was tokenised for a vocabulary of {blocks.vocab_size:,} tokens, and the student has "
            f"{student.config.vocab_size:,}: prepare the text with the student's own tokenizer."
        )
    steps = steps_of(config, blocks.block_size)
    last = steps if until is None else until
    batches = batching(config, world_size())
    device = distributed.start(device)
    if config.distils and cache is None:
        assert teacher is not None
        check_vocabularies(student, teacher)
        teacher = frozen(teacher.to(device).eval().requires_grad_(False), precision)
        if config.compile:
            compile_blocks(teacher)
    student = student.to("cpu")
    engine = Engine(copy.deepcopy(student).to(device), config, deepspeed, batches, precision, device)
    begun = checkpoints.resume(engine, folder, run, begin)
    metrics = Metrics(folder, begun.metrics_bytes, log)
    writer = Writer(folder, config.checkpoint.keep, device)
    _announce(last, begun.step, config, blocks)
    batch_tokens = config.global_batch * blocks.block_size
    budget = steps * batch_tokens
    validate_every = validation_steps(config, blocks.block_size)
    save_every = _interval(config.checkpoint.tokens, CHECKPOINTS, config, blocks.block_size)

    def read(step: int) -> list[Batch]:
        numbers = block_numbers(len(blocks), seed, (step - 1) * config.global_batch, config.global_batch)
        shares = batches.share(numbers, rank())
        parts = [Batch(blocks.take(part), None if cache is None else cache.take(part)) for part in shares]
        return [part.pin_memory() for part in parts] if device.type == "cuda" else parts

    def validated(step: int) -> None:
        nll = engine.evaluate(validate)
        _check_finite(step, writer, {"validation loss": nll}, precision)
        line = {"step": step, "tokens": step * batch_tokens, "validation_nll": nll}
        metrics.write(line if per_byte is None else line | {"bits_per_byte": per_byte(nll)})

    if begun.step == 0:
        validated(0)
    elif rank() == 0:
        log({"step": begun.step, "tokens": begun.step * batch_tokens, "resumed": True})
    skipped, saved, started = begun.skipped, time.monotonic(), time.perf_counter()
    with writer, deferred() as signalled:
        for step, micro_batches in prefetched(read, range(begun.step + 1, last + 1)):
            writer.check()
            tokens = step * batch_tokens
            rate = learning_rate(tokens, budget, lr, config.schedule)
            values = engine.step(
                micro_batches, lambda model, batch: distillation_loss(model, teacher, batch, config), rate
            )
            if (found := _not_finite(values)) and skipped < config.skip_nonfinite:
                skipped += 1
                if rank() == 0:
                    logger.warning("Step %d is skipped (%d so far), as these are not finite: %s.", step, skipped, found)
                metrics.write({"step": step, "tokens": tokens, "skipped": skipped})
            else:
                _check_finite(step, writer, values, precision)
                speed = batch_tokens / (time.perf_counter() - started)
                line = {"step": step, "tokens": tokens, **values, "lr": rate, **flops.so_far(tokens)}
                mfu = flops.utilisation(speed, world_size(), device)
                metrics.write(line, tokens_per_second=speed, mfu=mfu)
            if step % validate_every == 0 or step == steps:
                validated(step)
            overdue = rank() == 0 and time.monotonic() > saved + 60 * (config.checkpoint.minutes or math.inf)
            stop_requested, overdue = distributed.any_rank([signalled() is not None, overdue], device)
            if step % save_every == 0 or step == last or stop_requested or overdue:
                position = Position(step, metrics.sync(), run, skipped)
                writer.save(engine, position, at_once=step == last or stop_requested)
                saved = time.monotonic()
            if stop_requested:
                raise Interrupted(
                    f"A signal ({signalled() or 'to another rank'}) ended the training after step {step} of {last}; a "
                    f"checkpoint is written, and the same command resumes from it."
                )
            started = time.perf_counter()
    _copy_weights(engine, student)
    engine.close()
    return student


@torch.no_grad()
def _copy_weights(engine: Engine, student: GPT) -> None:
    """All ranks together, since each may hold a share."""
    given = dict(student.named_parameters())
    for _, name, value in tensors(engine, kinds=("weight",)):
        given[name].copy_(value)


def _announce(steps: int, done: int, config: DistillConfig, blocks: Blocks) -> None:
    if rank() != 0:
        return
    if done:
        logger.info("Training resumes after step %d of %d.", done, steps)
    wanted = steps * config.global_batch
    if wanted > len(blocks):
        epochs = wanted / len(blocks)
        logger.info("%d blocks of training text for %d: it is read %.1f times.", len(blocks), wanted, epochs)


def _not_finite(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))


def _check_finite(step: int, writer: Writer, values: dict[str, float], precision: str) -> None:
    if found := _not_finite(values):
        writer.finish()
        last, wider = checkpoints.latest(writer.root), "" if precision == "fp32" else " or use precision=fp32"
        saved = f"The last good checkpoint is {last}." if last else "No checkpoint was written yet."
        if step == 0:
            raise NotFinite(
                f"These values are not finite before the first step: {found}. Look for broken weights in the "
                f"student{wider}."
            )
        raise NotFinite(f"These values are not finite at step {step}: {found}. Lower the learning rate{wider}. {saved}")
