"""How fast models read and write on this machine: tokens per second of prefill and decode, one text at a time."""

import time
from statistics import median

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.hardware import processor
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states, kv_cache


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


def speeds(
    models: dict[str, GPT], prompt: Tensor, decode: int, repetitions: int, precision: str
) -> dict[str, dict[str, float]]:
    """Tokens per second of each model, medians: `prefill` of prompt (T,) in one forward pass, then `decode` of that
    many tokens after it, each a forward pass of its own with the KV cache.

    The models run in turn, after one round to warm up, so that a slow spell of the machine falls on all of them.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for repetition in range(1 + repetitions):
        for name, model in models.items():
            took = _seconds(model, prompt, decode, precision)
            if repetition > 0:
                seconds[name].append(took)
    return {
        name: {"prefill": len(prompt) / median(p for p, _ in each), "decode": decode / median(d for _, d in each)}
        for name, each in seconds.items()
    }


@torch.no_grad()
def _seconds(model: GPT, prompt: Tensor, decode: int, precision: str) -> tuple[float, float]:
    """Of the prefill, and of all decoded tokens. Each token comes from the logits before it, as in generation."""
    device = model.transformer.wte.weight.device
    tokens, places, clock = prompt[None].to(device), [0, *range(len(prompt), len(prompt) + decode)], []
    with kv_cache(model, len(prompt) + decode), autocast(precision, device):
        clock.append(_now(device))
        for start in places:
            hidden = hidden_states(model, tokens, start=start)
            tokens = model.lm_head(hidden[:, -1:])[..., : model.config.vocab_size].argmax(dim=-1)
            if start in (0, places[-1]):
                clock.append(_now(device))
    return clock[1] - clock[0], clock[2] - clock[1]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
