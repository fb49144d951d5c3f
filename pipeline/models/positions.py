"""What the layers of a model know of places: their rotary tables, and which of them see a sliding window alone."""

import torch
from litgpt import GPT
from torch import Tensor


def turns(model: GPT, number: int, table: Tensor) -> Tensor:
    """Of a table (B, T, ...) with the columns of `model.cos`, those (B, T, rotary entries) of one layer."""
    columns = model.rope_columns[number] if hasattr(model, "rope_columns") else slice(None)
    if model.config.rope_local_base_freq is None:
        return table[..., columns]
    return table[..., columns, model.config.rope_indices[number]]


def is_windowed(model: GPT, number: int) -> bool:
    """Whether a layer sees a sliding window alone."""
    return model.config.sliding_window_size is not None and bool(model.config.sliding_window_indices[number])


def window_mask(model: GPT, length: int) -> Tensor | None:
    """What the tokens of a text of this length see in layers with a sliding window (length, length); None: all."""
    return within_window(model, None, torch.arange(length, device=model.cos.device), length)


def within_window(model: GPT, seen: Tensor | None, places: Tensor, length: int) -> Tensor | None:
    """The mask `seen` (None: causal) of tokens at `places`, less what lies beyond the sliding window. It is the same
    mask where all are nearer: masks keep attention from its fastest form."""
    window = model.config.sliding_window_size
    if window is None or length <= window:
        return seen
    if places.dim() > 1:
        near = (places[:, :, None] - places[:, None, :] < window)[:, None]
        return seen & near
    apart = places[:, None] - torch.arange(length, device=places.device)
    return (apart >= 0) & (apart < window)
