"""SmolLM3: a Llama in which every fourth layer has no rotary positions.

litgpt's configuration has no field for that. Sprig writes it as `rope_indices` without a local base, with 1 for a layer
without rotary positions (see pipeline.models.student). litgpt's own GPT stops at such a configuration.
"""

import reprlib
from typing import Any

from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import reading as read
from pipeline.models.families.family import GGUF, Described, Family, Stock

_INTERVAL = 4  # every fourth layer


def _read(plain: dict[str, Any]) -> Described:
    read.refuse_keys(plain, "SmolLM3", "attention_bias", "mlp_bias")
    window = plain.get("sliding_window") if read.flag(plain, "use_sliding_window", False) else None
    read.refuse_window(plain, window)
    config = read.llama_like(plain, 4, rope_theta=2e6, rope_indices=_without_rotary(plain))
    return Described(config, read.flag(plain, "tie_word_embeddings", True), read.LLAMA_NAMES)


def _without_rotary(plain: dict[str, Any]) -> list[int]:
    """1 for each layer without rotary positions; config.json has 0 there."""
    depth: Any = plain.get("num_hidden_layers")
    layers: Any = plain.get("no_rope_layers")
    interval = plain.get("no_rope_layer_interval", _INTERVAL)
    if layers is None and type(depth) is int and 0 < depth <= 4096:
        if type(interval) is not int or interval < 1:
            raise SprigError(f"no_rope_layer_interval={reprlib.repr(interval)} is not a whole number above 0")
        return _every(interval, depth)
    right = isinstance(layers, list) and all(type(each) is int and each in (0, 1) for each in layers)
    if not right or type(depth) is not int or len(layers) < depth:
        raise SprigError(
            f"no_rope_layers={reprlib.repr(layers)} is not 0 or 1 for each of num_hidden_layers={reprlib.repr(depth)} "
            "layers: fetch it again"
        )
    return [1 - each for each in layers[:depth]]


def _every(interval: int, depth: int) -> list[int]:
    return [int((layer + 1) % interval == 0) for layer in range(depth)]


def _keys(config: Config) -> dict[str, Any]:
    return {
        "no_rope_layers": [1 - each for each in config.rope_indices],
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * config.n_layer,
        "attention_bias": False,
        "mlp_bias": False,
    }


SMOLLM3 = Family(
    name="smollm3",
    called="SmolLM3",
    parts={"no rotary": (True,)},
    names=read.LLAMA_NAMES,
    readers={"smollm3": _read},
    stock=Stock("smollm3", "SmolLM3ForCausalLM", _keys),
    gguf={
        "smollm3": GGUF(
            side_by_side=True,
            # llama.cpp's own code has the interval.
            derived=lambda fields: fields | {"rope_indices": _every(_INTERVAL, fields["n_layer"])},
        )
    },
)
