"""Which device and which arithmetic a run uses. Device never enters a fingerprint, the resolved precision does."""

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path

import torch
from litgpt import GPT
from torch import nn

from pipeline.config import Device, Precision
from pipeline.errors import SprigError


def resolve_device(device: Device) -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        SprigError: cuda is asked for where torch sees none.
    """
    available = torch.cuda.is_available()
    if device == Device.cuda and not available:
        raise SprigError(f"device=cuda, but torch {torch.__version__} sees no GPU here: use device=auto or device=cpu.")
    return torch.device("cpu" if device == Device.cpu or not available else "cuda")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":  # one that is not here is that of a plan, which assumes an H100
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """ "fp32", "bf16-mixed" (autocast over fp32 weights; what `auto` takes where the processor has it) or "bf16".

    Raises:
        SprigError: a bf16 precision is asked for where the processor would only emulate it.
    """
    bf16 = _has_bf16(device)
    if precision == Precision.auto:
        return "bf16-mixed" if bf16 else "fp32"
    if precision != Precision.fp32 and not bf16:
        raise SprigError(f"precision={precision.value}, but this {device.type} has no bf16: use precision=fp32.")
    return precision.value


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context that a forward pass of weights in fp32 runs in."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, torch.bfloat16)


@contextmanager
def tf32(precision: str, device: torch.device) -> Iterator[None]:
    """For training in "fp32" on a GPU: products of matrices round their inputs to 10 bits of mantissa and add in fp32,
    at 7 times the peak of an H100. Evaluation and recovery stay outside: their figures would change."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or (precision == "fp32" and device.type == "cuda")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Inside, if wanted, a GPU adds in the same order each time, and an operator that cannot raises RuntimeError.

    To be entered before the first product on a GPU, because cuBLAS reads its variable once.
    """
    if not wanted:
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    variable = "CUBLAS_WORKSPACE_CONFIG"
    unset = variable not in os.environ
    os.environ.setdefault(variable, ":4096:8")  # the larger of the two values that cuBLAS repeats with
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        if unset:
            del os.environ[variable]


def without_casts(model: GPT) -> AbstractContextManager:
    """The context, within `autocast`, of a forward pass of this model: autocast ends where all weights are in bf16.

    It would only convert what norms read to fp32 and what they write back, a third of such a model's memory traffic
    (benchmarks/RESULTS.md). They compute in fp32 in any case, so the result is the same.
    """
    weight = model.transformer.wte.weight
    return torch.autocast(weight.device.type, enabled=False) if weight.dtype == torch.bfloat16 else nullcontext()


@torch.no_grad()
def lower(model: nn.Module, precision: str) -> None:
    """Casts the weights of linear layers once, where autocast would cast them in each pass: it caches only those that
    train. Norms and embeddings stay as they are, so the model's output under `autocast` is the same to the bit."""
    if precision == "fp32":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.dtype != torch.bfloat16:
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))


def frozen(model: GPT, precision: str) -> GPT:
    """A twin of a frozen model, with modules of its own but the same memory, save for what `lower` casts."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, shared)
    lower(twin, precision)
    return twin
