"""What a family is: data that loading, counting, cutting, recovery and export read. One file for each family."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from litgpt import Config
from torch import Tensor

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Names:
    """The weight names of a transformers class: the prefix of its body, the modules around the layers, and the module
    of each part of a layer (parts as in pipeline.models.blocks). A part of an expert, "experts.up", has {} for the
    expert's number; that of one expert is "experts.3.up"."""

    body: str
    embedding: str
    norm: str
    head: str
    parts: dict[str, str]

    def module(self, part: str) -> str:
        """The module of a layer's part."""
        name, *expert = part.split(".", 2)
        return self.parts[f"{name}.{expert[1]}"].format(expert[0]) if expert else self.parts[part]

    def part(self, module: str) -> str | None:
        """The part that a layer's module is; None if it is none."""
        for part, theirs in self.parts.items():
            if found := re.fullmatch(re.escape(theirs).replace(r"\{\}", r"(\d+)"), module):
                return part.replace(".", f".{found[1]}.") if found.groups() else part
        return None


@dataclass(frozen=True)
class Folded:
    """What a family computes and Sprig's models do not, because it is folded into their weights: the same function.

    `norms` is added to the weights of all norms (Gemma stores a factor less one). The queries are multiplied by
    `queries`, where the family divides scores by another number than the square root of the head size.
    """

    norms: float = 0.0
    queries: float = 1.0

    def into(self, state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
        """The weights (litgpt's names) with everything folded in."""
        if self == Folded():
            return state
        rows = config.n_head * config.head_size
        changed = {}
        for name, tensor in state.items():
            each = tensor.float()
            if self.norms and is_norm(name):
                each = each + self.norms
            # A norm of q undoes every factor before it.
            if name.endswith("attn.norm_q.weight"):
                each = each * self.queries
            elif not config.norm_qk and name.endswith(("attn.qkv.weight", "attn.qkv.bias")):
                each = torch.cat([each[:rows] * self.queries, each[rows:]])
            changed[name] = each.to(tensor.dtype) if each.data_ptr() != tensor.data_ptr() else tensor
        return changed


def is_norm(name: str) -> bool:
    """Whether a weight is a norm's, under litgpt's name."""
    return name.endswith(".weight") and ("norm" in name or "ln_f" in name)


@dataclass(frozen=True)
class Described:
    """`unbiased` are the parts that have no bias in the file though litgpt's config gives them one: zero is the same
    function, and litgpt knows one switch for all of a block. `unfuse` takes apart what the files keep together; parts
    are flat, as in pipeline.models.blocks."""

    config: Config
    tied: bool
    names: Names
    unbiased: frozenset[str] = frozenset()
    folded: Folded = Folded()
    unfuse: Callable[[Parts, Config], Parts] = lambda parts, config: parts


@dataclass(frozen=True)
class GGUF:
    """A family's files in llama.cpp's terms: the fields of litgpt's configuration that its architecture means, and
    whether the two entries of a rotary pair lie side by side. `derived` completes the fields that were read, with
    what llama.cpp's own code knows; `windows` says that sliding windows are read, and `numbers` which further keys are,
    by litgpt's fields."""

    fields: dict[str, Any] = field(default_factory=dict)
    side_by_side: bool = False
    derived: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields
    windows: bool = False
    numbers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stock:
    """A stock class of transformers: its config.json's `model_type`, its name, and `keys`, what its config.json says
    in addition to what all have. With `typed_scaling`, transformers 4 takes linear rotary scaling only as `type` and
    `factor`."""

    kind: str
    name: str
    keys: Callable[[Config], dict[str, Any]] = lambda config: {}
    typed_scaling: bool = False


@dataclass(frozen=True)
class Family:
    """A family's name as in Architecture.family, its name in sentences, and:

    parts: by the name of a part (see pipeline.models.families.parts) the values that it supports, where these are not
        the plain one.
    readers: by model_type, what reads a config.json.
    stock: the class of a student in transformers; `undivided` is the one for a width that is not a multiple of the
        number of heads, if `stock` needs that.
    folded: what its files leave to the class and Sprig folds into the weights.
    fuse: joins the parts that the stock class keeps together; parts as in pipeline.models.blocks.
    gguf: by llama.cpp's architecture.
    """

    name: str
    called: str
    parts: dict[str, tuple[Any, ...]]
    names: Names
    readers: dict[str, Callable[[dict[str, Any]], Described]]
    stock: Stock
    undivided: Stock | None = None
    folded: Folded = Folded()
    fuse: Callable[[Parts], Parts] = lambda parts: parts
    gguf: dict[str, GGUF] = field(default_factory=dict)
