"""Model FLOPs of a training, and the share of the GPUs' peak that they come to (MFU, Chowdhery et al. 2022)."""

from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import torch
from litgpt import GPT

from pipeline.models.families import architecture_of, is_tied
from pipeline.models.student import LayerwiseGPT
from pipeline.subnetwork.counting import flops_per_token, training_flops

# Peak bf16 FLOP/s without sparsity, from the makers' data sheets, by the name that torch gives the device.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H800": 989e12,
    "NVIDIA H800 PCIe": 756e12,
    "NVIDIA H20": 148e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}


@dataclass(frozen=True)
class Flops:
    """What one token of training costs: the student's forward and backward pass, the teacher's forward pass. What
    activation checkpointing computes again is not counted."""

    student: int
    teacher: int = 0

    def so_far(self, tokens: int) -> dict[str, int]:
        return {"student_flops": self.student * tokens, "teacher_flops": self.teacher * tokens}

    def utilisation(self, tokens_per_second: float, ranks: int, device: torch.device) -> float | None:
        """The share of the peak bf16 FLOP/s of all ranks' devices, whatever the precision; None for unknown devices."""
        peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        return None if peak is None else tokens_per_second * (self.student + self.teacher) / (ranks * peak)


@lru_cache
def matrix_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of matrix products on this device, measured once."""
    matrix = torch.ones(1024, 1024, dtype=torch.float32 if precision == "fp32" else torch.bfloat16, device=device)
    _ = (matrix @ matrix).sum().item()  # warm-up
    started = perf_counter()
    for _ in range(3):
        _ = (matrix @ matrix).sum().item()  # a GPU's result, waited for
    return 3 * 2 * 1024**3 / (perf_counter() - started)


def peak_flops(device_name: str) -> float | None:
    """By the longest entry that the name begins with, word by word: an L40 is not an L4."""
    found = [name for name in PEAKS if f"{device_name} ".replace("-", " ").startswith(f"{name} ")]
    return PEAKS[max(found, key=len)] if found else None


def flops_of(teacher: GPT, student: GPT, length: int) -> Flops:
    """FLOPs per token."""
    whole = architecture_of(teacher.config, is_tied(teacher))
    if isinstance(student, LayerwiseGPT):
        own = flops_per_token(whole, student.sub, length=length)
    else:
        own = flops_per_token(architecture_of(student.config, is_tied(student)), length=length)
    return Flops(training_flops(own), flops_per_token(whole, length=length))
