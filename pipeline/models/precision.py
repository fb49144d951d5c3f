"""Which device and which arithmetic a run uses. Device never enters a fingerprint, the resolved precision does."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

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
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
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
