"""What the layers of a model know of places: their rotary tables, and which of them see a sliding window alone."""

import torch
from litgpt import GPT, Config
from torch import Tensor


def turns(model: GPT, number: int, table: Tensor) -> Tensor:
    """Of a table (B, T, ...) with the columns of `model.cos`, those (B, T, rotary entries) of one layer."""
    columns = model.rope_columns[number] if hasattr(model, "rope_columns") else slice(None)
    if model.config.rope_indices is None:
        return table[..., columns]
    return table[..., columns, model.config.rope_indices[number]]


def has_still_layers(config: Config) -> bool:
    """Whether `rope_indices` names layers without rotary positions. litgpt's own GPT has none."""
    return config.rope_indices is not None and config.rope_local_base_freq is None


def with_still_tables(config: Config, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary tables, with those of layers without rotary positions on a last axis, where litgpt has local ones."""
    if not has_still_layers(config):
        return cos, sin
    return torch.stack([cos, torch.ones_like(cos)], dim=-1), torch.stack([sin, torch.zeros_like(sin)], dim=-1)


def is_windowed(model: GPT, number: int) -> bool:
    """Whether a layer sees a sliding window alone."""
    return model.config.sliding_window_size is not None and bool(model.config.sliding_window_indices[number])


def window_mask(model: GPT, length: int) -> Tensor | None:
    """What the tokens of a text of this length see in layers with a sliding window (length, length); None: all."""
    return masks(model, None, torch.arange(length, device=model.cos.device), length)[1]


def masks(model: GPT, seen: Tensor | None, places: Tensor, length: int) -> tuple[Tensor | None, Tensor | None]:
    """The masks of layers with full attention and of those with a sliding window, for tokens at `places` of a text of
    this length. Each is None for causal, or says what is `seen`; soft-capped scores take masks that are added."""
    near = _within_window(model, seen, places, length)
    if model.config.attention_logit_softcapping is None:
        return seen, near
    added = _added(seen)
    return added, added if near is seen else _added(near)


def _added(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)


def _within_window(model: GPT, seen: Tensor | None, places: Tensor, length: int) -> Tensor | None:
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
