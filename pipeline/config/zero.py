"""What `deepspeed.zero_optimization` takes: those of DeepSpeed's keys that lay out the same computation differently.

Checked here, because DeepSpeed reads them only when training starts. Nothing here is in a fingerprint, so a key that
changes results is refused.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from pipeline.config.checks import Range, require
from pipeline.config.values import count
from pipeline.errors import SprigError

SECTION = "deepspeed.zero_optimization"
SWITCHES = (
    "allgather_partitions",
    "contiguous_gradients",
    "overlap_comm",
    "parameter_alignment",
    "reduce_scatter",
    "round_robin_gradients",
    "stage3_allgather_sequential",
    "stage3_use_all_reduce_for_fetch_params",
    "use_multi_rank_bucket_allreduce",
)
LARGEST = 10**12
COUNTS = {  # entries
    "allgather_bucket_size": Range(2, LARGEST),
    "reduce_bucket_size": Range(1, LARGEST),
    "stage3_max_live_parameters": Range(0, LARGEST),
    "stage3_max_reuse_distance": Range(0, LARGEST),
    "stage3_model_persistence_threshold": Range(0, LARGEST),
    "stage3_param_persistence_threshold": Range(0, LARGEST),
    "stage3_prefetch_bucket_size": Range(0, LARGEST),
    "sub_group_size": Range(1, LARGEST),
}
OFFLOAD, DEVICES, OFFLOAD_KEYS = "offload_param", ("cpu", "none"), ("device", "pin_memory")
_CHANGES = "changes results, and nothing in deepspeed is in a fingerprint: leave it out."
REFUSED = {
    "offload_optimizer": "needs DeepSpeed's own Adam, but Sprig trains with torch's AdamW: leave it out, and shard the "
    "optimizer over more processes with deepspeed.zero_stage.",
    "zenflow": f"applies gradients late, which {_CHANGES}",
    **{
        f"zero_quantized_{what}": f"rounds {what.replace('_', ' ')} to a few bits, which {_CHANGES}"
        for what in ("gradients", "nontrainable_weights", "weights")
    },
}


def checked(given: Mapping[str, Any], stage: int) -> dict[str, Any]:
    """The keys for DeepSpeed at ZeRO `stage`, with counts such as 50M as numbers.

    Raises:
        SprigError: a key is unknown or changes results, or its value has a wrong type, is out of range or does not fit
            the stage.
    """
    return {key: _value(str(key), value, stage) for key, value in given.items()}


def _value(key: str, value: Any, stage: int) -> Any:
    name = f"{SECTION}.{key}"
    require(
        key != "stage",
        f"{name}={value} is set in addition to deepspeed.zero_stage={stage}: use deepspeed.zero_stage alone.",
    )
    if key in REFUSED:
        raise SprigError(f"{name}={_shown(value)} {REFUSED[key]}")
    _known(key, (*SWITCHES, *COUNTS, OFFLOAD), SECTION)
    if key in SWITCHES:
        return _switch(name, value)
    return _offload(name, value, stage) if key == OFFLOAD else _count(name, value, COUNTS[key])


def _known(key: str, keys: tuple[str, ...], section: str) -> None:
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    hint = f"did you mean {section}.{near[0]}?" if near else f"{section} takes {', '.join(sorted(keys))}."
    require(key in keys, f"There is no configuration key {section}.{key}: {hint}")


def _switch(name: str, value: Any) -> bool:
    require(isinstance(value, int) and value in (0, 1), f"{name}={_shown(value)} is not true or false.")
    return bool(value)


def _count(name: str, value: Any, allowed: Range) -> int:
    try:
        number = count(value)
    except ValueError:
        raise SprigError(f"{name}={_shown(value)} is not a count, such as 50_000, 50k, 70M or 1e4.") from None
    require(number in allowed, f"{name}={value} must {allowed}.")
    odd = number % 2 == 1 and name.endswith("allgather_bucket_size")
    require(not odd, f"{name}={value} must be even, as DeepSpeed aligns what it gathers to two entries.")
    return number


def _offload(name: str, value: Any, stage: int) -> dict[str, Any]:
    require(isinstance(value, Mapping), f"{name}={_shown(value)} is not a dictionary, such as {{device: cpu}}.")
    require(
        stage == 3,
        f"{name} with deepspeed.zero_stage={stage}: only stage 3 shards the weights that it moves, so set "
        "deepspeed.zero_stage=3, or leave it out.",
    )
    for key, each in value.items():
        _known(str(key), OFFLOAD_KEYS, name)
        if key == "pin_memory":
            _switch(f"{name}.{key}", each)
        else:
            require(each in DEVICES, f"{name}.{key}={_shown(each)} must be {' or '.join(DEVICES)}.")
    return dict(value)


def _shown(value: Any) -> Any:
    """As it is written in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value
