"""What every source's weights must be before a run starts from them: floats, finite, complete, of the right shapes."""

import torch
from litgpt import Config
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models import student

HEAD, EMBEDDING, HEAD_BIAS = "lm_head.weight", "transformer.wte.weight", "lm_head.bias"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def floats(name: str, tensor: Tensor, dtype: torch.dtype, source: object) -> Tensor:
    """The tensor in `dtype`.

    Raises:
        SprigError: its numbers are not plain floats, so that they stand for others: quantised weights; or not finite.
    """
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.is_meta:
        kind = str(tensor.dtype).removeprefix("torch.")
        kind = kind if tensor.layout == torch.strided else f"{kind}, {str(tensor.layout).removeprefix('torch.')}"
        raise SprigError(
            f"{source} holds {name} as {kind}, not as plain floats: dequantise the weights first, or use the model "
            "from which they were quantised."
        )
    tensor = tensor.to(dtype)
    check_finite(f"{name} in {source}", tensor, "fetch the weights again, or use another checkpoint")
    return tensor


def check_finite(which: str, tensor: Tensor, cure: str) -> None:
    """Raises SprigError where a value is not; names the tensor and the `cure`."""
    bounds = [bound.item() for bound in torch.aminmax(tensor)] if tensor.numel() else []
    if not all(abs(bound) < float("inf") for bound in bounds):  # NaN is in both
        raise SprigError(f"{which} holds values that are not finite ({', '.join(map(str, bounds))}): {cure}.")


def with_zero_biases(parts: dict[str, Tensor], unbiased: frozenset[str]) -> None:
    """Adds zeros as biases of a layer's parts that have none: the same function, for a config with one switch for
    all."""
    for part in unbiased:
        weight = parts.get(f"{part}.weight")
        if weight is not None and weight.dim():
            parts[f"{part}.bias"] = weight.new_zeros(len(weight))


def check(state: dict[str, Tensor], config: Config, tied: bool, teacher: str) -> None:
    """Holds the weights (litgpt's names) to the model of `config`; a tied model needs no head of its own.

    Raises:
        SprigError: one is missing, left over or of another shape; names it.
    """
    outline = student.build(config, None, tied, device="meta")
    expected = {name: tuple(weight.shape) for name, weight in outline.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in state.items()}
    if tied and EMBEDDING in found:
        found.setdefault(HEAD, found[EMBEDDING])
    rows = [found[name][0] for name in (EMBEDDING, HEAD) if found.get(name)]
    if len(set(rows)) > 1:
        raise SprigError(
            f"Teacher {teacher}'s embedding has {rows[0]} rows and its head {rows[1]}: resize one to the other, "
            "model.resize_token_embeddings() of transformers."
        )
    if missing := [name for name in sorted(expected) if name not in found and not (tied and name == HEAD)]:
        raise SprigError(
            f"Teacher {teacher}'s weights lack {missing[0]}, by litgpt's name ({len(missing)} of {len(expected)} are "
            "missing): they are not a complete model of its configuration, fetch them again."
        )
    for name in sorted(found):
        if expected.get(name) != found.get(name):
            raise SprigError(
                f"Teacher {teacher}'s {name}, by litgpt's name, has shape {found[name]} where its configuration says "
                f"{expected.get(name, 'none')}: the files do not belong together, fetch them again."
            )
