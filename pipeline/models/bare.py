"""Models are built as bare modules: without memory, initial weights and rotary tables."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from litgpt import GPT
from torch import Tensor, nn

_RopeCache = Callable[..., tuple[Tensor, Tensor]]
_BUILDING = threading.RLock()


def with_weights(rope_cache: _RopeCache) -> _RopeCache:
    """The rotary tables (context, entries), empty while the weights are on meta: then a constructor asks for them."""

    def tables(model: GPT, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        if device is None and model.transformer.wte.weight.is_meta:
            return torch.empty(model.max_seq_length, 0), torch.empty(model.max_seq_length, 0)
        return rope_cache(model, device)

    return tables


@contextmanager
def bare() -> Iterator[None]:
    """Modules have no memory, initial weights and tables, which on meta too take most of the time. As in transformers'
    no_init_weights, the classes go without for the moment; a TorchFunctionMode takes as long as all the rest."""
    kinds = (nn.Linear, nn.Embedding, nn.LayerNorm)
    with _BUILDING:
        changed: dict[tuple[type, str], Any] = {(kind, "reset_parameters"): lambda self: None for kind in kinds}
        changed[GPT, "rope_cache"] = with_weights(GPT.rope_cache)
        own = {place: getattr(*place) for place in changed}
        try:
            for place, function in changed.items():
                setattr(*place, function)
            with torch.device("meta"):
                yield
        finally:
            for place, function in own.items():
                setattr(*place, function)
