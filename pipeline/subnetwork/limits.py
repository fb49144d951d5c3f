"""Limits in addition to the parameter bin: costs in closed form that grow with every gene and are affine in each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.config import SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import Count, layer_flops, layer_kv_bytes, outer_flops
from pipeline.subnetwork.value import SubNetwork


@dataclass(frozen=True)
class Limit:
    """At most `most` of a cost: `outer(n_embd)` plus the sum of `layer(n_embd, *genes)` over the layers.

    `name` is how the configuration writes the limit, `unit` what it counts.
    """

    name: str
    unit: str
    most: int
    outer: Callable[[Count], Count]
    layer: Callable[..., Count]


def flops_limit(architecture: Architecture, most: int, length: int, name: str = "") -> Limit:
    """On the forward FLOPs per token, averaged over a sequence of `length` tokens."""
    return Limit(
        name,
        f"FLOPs per token (forward, over {length:,} tokens)",
        most,
        partial(outer_flops, architecture),
        partial(layer_flops, architecture, length=length),
    )


def make_limits(architecture: Architecture, config: SpaceConfig, length: int, value_bytes: int) -> list[Limit]:
    """The limits that are set: FLOPs are averaged over a sequence of `length` tokens, and an entry of a key or value
    takes `value_bytes`."""
    limits = []
    if (most := config.max_flops_per_token) is not None:
        limits.append(flops_limit(architecture, most, length, f"space.max_flops_per_token={most:,}"))
    if (most := config.max_kv_bytes_per_token) is not None:
        limits.append(
            Limit(
                f"space.max_kv_bytes_per_token={most:,}",
                f"bytes per token (KV cache, {value_bytes} bytes per entry)",
                most,
                lambda n_embd: 0 * n_embd,
                lambda n_embd, groups, heads, head_size, *mlp: layer_kv_bytes(groups, head_size, value_bytes),
            )
        )
    return limits


def check_limits(limits: list[Limit], sub: SubNetwork, what: str) -> None:
    """Raises SprigError where a sub-network, called `what`, that was not made within the limits costs more."""
    for limit in limits:
        layers = (limit.layer(sub.n_embd, *gene.sizes) for gene in sub.genes)
        if (cost := limit.outer(sub.n_embd) + sum(layers)) > limit.most:
            raise SprigError(f"{what} has {cost:,} {limit.unit}, beyond {limit.name}: raise it, or choose another.")
