"""What training and search cost on a GPU at the paper's sizes: measured if there is one, and otherwise counted.

A student of 410M parameters and a teacher of Pythia-6.9B's size, micro-batches of 8 x 2,048 tokens, bf16-mixed. A
training step is one micro-batch with an optimizer step of plain AdamW, on one GPU: no DeepSpeed, no communication. A
candidate of the search is cut out of the teacher and scored on 32 blocks.

Without a GPU the same code runs on fake CUDA tensors, and benchmarks.roofline adds up its operators for an H100: the
times are lower bounds and the utilisation (MFU) an upper one. That takes a minute or two of one core.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from litgpt import GPT, Config

from benchmarks import distill_loss
from benchmarks.fake_cuda import fake_cuda, flash_attention
from benchmarks.harness import alternate, arguments, peak_memory, report, synchronize
from benchmarks.roofline import Card, Cost, Counter
from pipeline.config import BinConfig, CacheConfig, CacheKind, DistillConfig, Loss, Sharing, SpaceConfig
from pipeline.models import head
from pipeline.models.extraction import cut
from pipeline.models.families import architecture_of
from pipeline.models.precision import autocast
from pipeline.models.recovery.recover import Settings, recover
from pipeline.models.student import build, hidden_states
from pipeline.plan.measured import filled
from pipeline.search.evaluator import Evaluator
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import flops_per_token
from pipeline.subnetwork.selection import Ordering, select
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork, whole
from pipeline.training import engine, losses
from pipeline.training.cached import Sampled
from pipeline.training.losses import Reference, chunked_loss, teacher_reference
from pipeline.training.throughput import peak_flops

BLOCKS, LENGTH, SEARCHED = 8, 2_048, 32
WARM_UP, REPETITIONS = 2, 5
KINDS = ("CE", "KD cached", "KD online")
PRECISION, CHUNK = "bf16-mixed", 2_048
TEACHER = Config.from_name("pythia-6.9b", vocab_size=50_277)
STUDENT = Config.from_name("pythia-410m", vocab_size=50_277, padded_vocab_size=TEACHER.padded_vocab_size)
RECOVERED = Config.from_name("pythia-1b")
ARCHITECTURE = architecture_of(TEACHER, tied=False)

# (the part of a step, whether it is compiled) to the context in which that part runs
At = Callable[[str, bool], AbstractContextManager]


@dataclass
class Step:
    """A training step on the device, part by part as pipeline.training.losses.distillation_loss runs them."""

    student: GPT
    teacher: GPT | None
    cached: Sampled | None
    config: DistillConfig
    tokens: torch.Tensor
    optimizer: torch.optim.Optimizer

    def __call__(self, at: At) -> None:
        inputs, targets = self.tokens[:, :-1], self.tokens[:, 1:].flatten()
        compiled = self.config.compile
        reference: Reference | None = self.cached
        with autocast(PRECISION, self.tokens.device):
            if self.teacher is not None:
                with at("teacher", False):
                    reference = teacher_reference(self.teacher, inputs, self.config)
            with at("student forward", False):
                hidden = hidden_states(self.student, inputs).flatten(0, 1)
            with at("heads and loss", False):
                vocabulary = self.student.config.vocab_size
                loss, *_ = chunked_loss(self.student.lm_head, hidden, targets, vocabulary, self.config, reference)
        with at("student backward", compiled):
            loss.backward()
        with at("optimizer", False):
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()

    @property
    def flops(self) -> float:
        """Model FLOPs, the numerator of MFU."""
        student = 3 * flops_per_token(architecture_of(self.student.config, tied=False), length=LENGTH)
        teacher = flops_per_token(ARCHITECTURE, length=LENGTH) if self.teacher is not None else 0
        return BLOCKS * LENGTH * (student + teacher)


def teacher_on(device: torch.device) -> GPT:
    return filled(build(TEACHER, None, False, device, torch.bfloat16)).requires_grad_(False).eval()


def step_of(kind: str, teacher: GPT | None, compiled: bool, device: torch.device) -> Step:
    """`kind` is "CE", "KD online" or "KD cached"."""
    student = filled(build(STUDENT, None, False, device)).train()
    loss = Loss.ce if kind == "CE" else Loss.forward_kl
    config = DistillConfig(tokens=1, loss=loss, chunk_tokens=CHUNK, compile=compiled)
    cached = None
    if kind == "KD cached":
        ids = torch.zeros(BLOCKS * LENGTH, CacheConfig(kind=CacheKind.sampled).slots, dtype=torch.long, device=device)
        cached = Sampled(ids, torch.zeros(ids.shape, device=device), torch.zeros(len(ids), device=device))
    optimizer = engine._optimizer(student, config)
    engine._make_moments(optimizer)
    tokens = torch.zeros(BLOCKS, LENGTH + 1, dtype=torch.long, device=device)
    return Step(student, teacher if kind == "KD online" else None, cached, config, tokens, optimizer)


def candidate(sharing: Sharing) -> SubNetwork:
    """A random member of the paper's bin for 410M."""
    space = SpaceConfig(sharing=sharing)
    edges = make_bin(BinConfig(center=405_000_000, tolerance=0.05))
    return Space(ARCHITECTURE, space, edges, None).sample(np.random.default_rng(0))


def candidates() -> Iterator[tuple[str, SubNetwork, bool, float]]:
    """Names and sub-networks, whether their loss is compiled, and the model FLOPs of an evaluation."""
    for compiled, sharing in product((False, True), Sharing):
        sub = candidate(sharing)
        flops = SEARCHED * LENGTH * flops_per_token(ARCHITECTURE, sub, length=LENGTH)
        yield f"candidate, {sharing}{', compiled' * compiled}", sub, compiled, flops


@contextmanager
def blocks_compiled(model: GPT, counter: Counter) -> Iterator[None]:
    """Counts each block as compiled."""
    hooks = []
    for block in model.transformer.h:
        hooks.append(block.register_forward_pre_hook(lambda *_: counter.compiled(True)))
        hooks.append(block.register_forward_hook(lambda *_: counter.compiled(False)))
    yield
    for hook in hooks:
        hook.remove()


def as_compiled(counter: Counter, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, counted as compiled."""

    def counted(*arguments: Any) -> Any:
        counter.compiled(True)
        result = function(*arguments)
        counter.compiled(False)
        return result

    return counted


def counted_step(step: Step, card: Card) -> Counter:
    with Counter(card) as counter, ExitStack() as stack:
        if step.config.compile:
            for model in filter(None, (step.student, step.teacher)):
                stack.enter_context(blocks_compiled(model, counter))
            chunk = as_compiled(counter, losses._chunk)
            stack.enter_context(mock.patch.object(losses, "_compiled_chunk", lambda: chunk))
        step(counter.phase)
    return counter


def evaluator_of(teacher: GPT, compiled: bool) -> Evaluator:
    blocks = torch.zeros(SEARCHED, LENGTH + 1, dtype=torch.long)
    return Evaluator(teacher, Ordering.identity(ARCHITECTURE), blocks, PRECISION, BLOCKS, compiled=compiled)


def scored(evaluator: Evaluator, sub: SubNetwork) -> None:
    list(evaluator.run([sub]))


def counted_evaluation(teacher: GPT, sub: SubNetwork, compiled: bool, card: Card) -> Cost:
    with Counter(card) as counter, mock.patch.object(head, "_compiled", partial(as_compiled, counter)):
        scored(evaluator_of(teacher, compiled), sub)
    return counter.total


def row(name: str, cost: Cost, flops: float | None, card: Card) -> list[str]:
    bound = "" if flops is None else f"{100 * flops / cost.seconds / card.bf16:.1f}"
    rest = cost.seconds - cost.matrix_seconds
    return [
        name,
        f"{cost.flops / 1e12:.1f}",
        f"{cost.bytes / 1e9:.1f}",
        f"{cost.cast_bytes / 1e9:.1f}",
        *(f"{1e3 * seconds:.1f}" for seconds in (cost.matrix_seconds, rest, cost.seconds)),
        bound,
    ]


MEASURED = ["work", "ms", "MFU, %", "rate", "peak above models, GiB"]
COLUMNS = ["work", "TFLOP", "GB", "of it casts", "products, ms", "other, ms", "total, ms", "MFU, at most %"]


def counted(card: Card) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of COLUMNS, and the bounds of MFU."""
    rows, bounds = [], {}

    def add(name: str, cost: Cost, flops: float | None = None) -> None:
        if flops is not None:
            bounds[f"{name}, MFU at most %"] = 100 * flops / cost.seconds / card.bf16
        rows.append(row(name, cost, flops, card))

    device = torch.device("cuda")
    with fake_cuda(), mock.patch("torch.nn.functional.scaled_dot_product_attention", flash_attention):
        teacher = teacher_on(device)
        for compiled, kind in product((False, True), KINDS):
            step = step_of(kind, teacher, compiled, device)
            counter = counted_step(step, card)
            add(f"{kind}, compiled" if compiled else kind, counter.total, step.flops)
            if kind == "KD online":
                for name, cost in counter.phases.items():
                    if name:
                        add(f"  {name}", cost)
        for name, sub, compiled, flops in candidates():
            add(name, counted_evaluation(teacher, sub, compiled, card), flops)
    return rows, bounds


def measured(device: torch.device) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of MEASURED, and the figures in them."""
    rows, figures = [], {}
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None

    def add(name: str, work: Callable[[], object], flops: float | None, count: int, unit: str) -> None:
        for _ in range(WARM_UP):
            work()
        memory = peak_memory(work, device)
        seconds = alternate({name: partial(timed, work, device)}, REPETITIONS)[name]
        mfu = None if peak is None or flops is None else 100 * flops / seconds / peak
        figures[f"{name}, ms"] = 1e3 * seconds
        rate, utilisation = f"{count / seconds:,.1f} {unit}/s", "" if mfu is None else f"{mfu:.1f}"
        rows.append([name, f"{1e3 * seconds:,.1f}", utilisation, rate, f"{memory / 2**30:.1f}"])

    teacher = teacher_on(device)
    for compiled, kind in product((False, True), KINDS):
        step = step_of(kind, teacher, compiled, device)
        if compiled:
            engine.compile_blocks(step.student)
            engine.compile_blocks(teacher)
        work = partial(step, lambda name, compiled: nullcontext())
        add(f"{kind}, compiled" if compiled else kind, work, step.flops, BLOCKS * LENGTH, "tokens")
        del step, work
    for name, sub, compiled, flops in candidates():
        add(name, partial(scored, evaluator_of(teacher, compiled), sub), flops, 1, "candidates")
    del teacher
    add("recovery of half of Pythia-1B", recovery_on(device), None, SEARCHED * LENGTH, "tokens")
    seconds, memory, _ = distill_loss.losses(device, CHUNK, TEACHER.vocab_size)
    for name, each in memory.items():  # in tensors of logits
        time = f"{1e3 * seconds[name]:.1f}" if name in seconds else ""
        taken = f"{each * 4 * CHUNK * TEACHER.vocab_size / 2**30:.1f}"
        rows.append([f"loss of {CHUNK:,} tokens, {name}", time, "", "", taken])
    return rows, figures


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of work and of what it left to the device."""
    synchronize(device)
    started = perf_counter()
    work()
    synchronize(device)
    return perf_counter() - started


def recovery_on(device: torch.device) -> Callable[[], object]:
    """Recovery of every second layer of a random Pythia-1B, on as many tokens as by default."""
    teacher = filled(build(RECOVERED, None, False, device)).requires_grad_(False).eval()
    architecture = architecture_of(RECOVERED, tied=False)
    sub = whole(architecture)
    sub = replace(sub, layers=sub.layers[::2], genes=sub.genes[::2])
    selection = select(sub, architecture, Ordering.identity(architecture))
    blocks = torch.zeros(SEARCHED, LENGTH + 1, dtype=torch.long)
    blocks.random_(RECOVERED.vocab_size, generator=torch.Generator().manual_seed(0))
    return lambda: recover(teacher, cut(teacher, sub, selection), sub, selection, blocks, Settings(precision=PRECISION))


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    if torch.cuda.is_available():
        rows, figures = measured(torch.device("cuda"))
        title = f"Measured on one {torch.cuda.get_device_name()}, medians of {REPETITIONS}"
        report(title, MEASURED, rows, figures, options.json)
        return
    card = Card()
    rows, bounds = counted(card)
    title = (
        f"COUNTED, not measured: {card.name}, products at {card.of_matrix:.0%} of {card.bf16 / 1e12:,.0f} TFLOP/s, "
        f"attention at {card.of_attention:.0%}, memory at {card.of_bandwidth:.0%} of {card.bandwidth / 1e12:.2f} TB/s"
    )
    report(title, COLUMNS, rows, bounds, options.json)


if __name__ == "__main__":
    main()
