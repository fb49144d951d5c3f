"""What PyTorch's operators cost on a GPU that is not here: FLOPs, bytes moved, and their shortest time by a roofline
(Williams, Waterman and Patterson 2009).

Each operator takes the longer of its arithmetic and its memory traffic, at rates that tuned kernels reach, one after
another. Not in it: launches, communication, waiting for data. So a time is a lower bound.

Traffic is what an operator reads and writes once, plus the passes that PyTorch's CUDA kernels add (`PASSES`). In a
compiled region neighbouring operators are one kernel, as TorchInductor fuses them: it reads what existed before, once,
and writes what lives after it. Rows too long to stay on the chip are read again after every reduction over them.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# Reads of the first input. logsumexp is amax, a difference, its exponential, and a sum (ATen/native/ReduceOps.cpp).
PASSES = {aten.logsumexp: 6, aten._log_softmax: 3, aten.native_layer_norm_backward: 2}
# These touch only the entries that an index names.
INDEXED = {
    *(aten.embedding, aten.gather, aten.index_select, aten.index, aten.scatter, aten.scatter_add),
    aten.nll_loss_forward,
}
REDUCTIONS = {aten.logsumexp, aten._log_softmax, aten.sum, aten.amax}
FREE = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.detach, aten._unsafe_view, aten.alias}
LONG_ROW = 16_384  # entries; 64 KB in fp32


@dataclass(frozen=True)
class Card:
    """Peaks of the data sheet, and the shares of them that tuned kernels reach."""

    name: str = "H100 SXM"
    bf16: float = 989e12  # FLOP/s, dense
    tf32: float = 494e12
    fp32: float = 67e12
    bandwidth: float = 3.35e12  # bytes/s
    of_matrix: float = 0.7  # large products in cuBLAS
    of_attention: float = 0.5  # FlashAttention 2, causal FLOPs
    of_bandwidth: float = 0.85


@dataclass
class Cost:
    """Seconds at the roofline, and what they are for."""

    flops: float = 0.0
    bytes: float = 0.0
    cast_bytes: float = 0.0  # of conversions between dtypes alone
    matrix_seconds: float = 0.0  # in products and attention
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(ours + theirs for ours, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Of the tensor's distinct entries: an expanded one is read once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _inputs(func: Any, args: Any, kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that an operator reads, and of them those that it writes."""
    read, written = [], []
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        found = _tensors(value)
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += found
            if func.overloadpacket in (aten.copy_, aten.zero_, aten.fill_):
                continue  # what was there is not read
        read += found
    return read, written


def _plain(packet: Any) -> Any:
    """The operator of which this is the one in place."""
    name = packet.__name__
    return getattr(aten, name[:-1]) if name.endswith("_") and hasattr(aten, name[:-1]) else packet


@dataclass
class _Region:
    """Operators that are compiled into one kernel."""

    reads: dict[tuple[int, int], int] = field(default_factory=dict)  # (storage, reductions before) to bytes
    made: dict[int, tuple[StorageWeakRef, int]] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)  # storages from before
    depth: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # reductions before a storage made here
    roots: dict[int, dict[int, int]] = field(default_factory=dict)  # what a made storage of long rows was made from

    def add(self, plain: Any, read: list[Tensor], written: list[Tensor], made: list[Tensor]) -> None:
        keys = [(each.untyped_storage()._cdata, each) for each in read]
        depth = max((self.depth[key] for key, _ in keys), default=0)
        roots: dict[int, int] = {}
        for key, tensor in keys:
            if key not in self.made:
                long = tensor.dim() > 0 and tensor.size(-1) > LONG_ROW
                size = made[0].numel() * tensor.element_size() if plain in INDEXED and made else _bytes(tensor)
                if long and plain not in INDEXED:
                    roots[key] = size
                else:
                    self.reads.setdefault((key, 0), size)
            elif plain not in INDEXED:
                roots |= self.roots.get(key, {})
        self.reads |= {(root, depth): size for root, size in roots.items()}
        long_reduction = bool(roots) and plain in REDUCTIONS
        for tensor in made:
            storage = tensor.untyped_storage()
            self.made[storage._cdata] = StorageWeakRef(storage), _bytes(tensor)
            self.depth[storage._cdata] = depth + long_reduction
            if tensor.dim() > 0 and tensor.size(-1) > LONG_ROW:
                self.roots[storage._cdata] = roots
        for tensor in written:
            key = tensor.untyped_storage()._cdata
            self.depth[key] = max(self.depth[key], depth)
            if key in self.made:
                self.roots[key] = self.roots.get(key, {}) | roots
            else:
                self.written[key] = max(self.written.get(key, 0), _bytes(tensor))

    @property
    def bytes(self) -> int:
        alive = sum(size for storage, size in self.made.values() if not storage.expired())
        return sum(self.reads.values()) + sum(self.written.values()) + alive


class Counter(TorchDispatchMode):
    """Adds up what runs within it, by the phase that is current."""

    def __init__(self, card: Card):
        super().__init__()
        self.card, self.name = card, ""
        self.phases: dict[str, Cost] = defaultdict(Cost)
        self._region: _Region | None = None
        self._compiled = False

    @property
    def total(self) -> Cost:
        return sum(self.phases.values(), Cost())

    @contextmanager
    def phase(self, name: str, compiled: bool = False) -> Iterator[None]:
        """What runs within it is counted under this name."""
        before, self.name = self.name, name
        self.compiled(compiled)
        try:
            yield
        finally:
            self.compiled(False)
            self.name = before

    def compiled(self, now: bool) -> None:
        """Ends the compiled region, if one is open; whether what follows belongs to one."""
        self._close()
        self._compiled = now

    def _close(self) -> None:
        if self._region is not None:
            self._note(Cost(bytes=self._region.bytes))
            self._region = None

    def _note(self, cost: Cost, rate: float | None = None) -> None:
        """`rate` is of products: FLOP/s."""
        moving = cost.bytes / (self.card.bandwidth * self.card.of_bandwidth)
        cost.seconds = moving if rate is None else max(moving, cost.flops / rate)
        cost.matrix_seconds = 0.0 if rate is None else cost.seconds
        self.phases[self.name] += cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        plain = _plain(packet)
        there = any(tensor.device.type == "cuda" for tensor in _tensors((args, kwargs, result)))
        if not there or func.is_view or func.namespace == "prim" or packet in FREE:
            return result
        read, written = _inputs(func, args, kwargs)
        made = [each for each in _tensors(result) if not any(each is other for other in written)]
        if plain in flop_registry:
            self._close()
            self._product(plain, args, kwargs, result, read + written + made)
        elif self._compiled and packet not in (aten._fused_adamw_, aten.scatter_add_, aten.scatter_):
            self._region = self._region or _Region()
            self._region.add(plain, read, written, made)
        else:
            self._close()
            self._alone(plain, read, written, made)
        return result

    def _product(self, plain: Any, args: Any, kwargs: Any, result: Any, tensors: list[Tensor]) -> None:
        flops, card = flop_registry[plain](*args, **kwargs, out_val=result), self.card
        if "attention" in plain.__name__:
            flops, rate = flops / 2, card.bf16 * card.of_attention  # causal: half of all pairs
        else:
            single = card.tf32 if torch.backends.cuda.matmul.allow_tf32 else card.fp32
            rate = card.of_matrix * (card.bf16 if tensors[0].dtype == torch.bfloat16 else single)
        self._note(Cost(flops=flops, bytes=sum(map(_bytes, tensors))), rate)

    def _alone(self, plain: Any, read: list[Tensor], written: list[Tensor], made: list[Tensor]) -> None:
        moved = sum(map(_bytes, read + written + made))
        if plain in INDEXED:
            index = sum(_bytes(each) for each in read if not each.dtype.is_floating_point)
            entries = made[0] if made else min(read, key=Tensor.numel)
            moved = index + 2 * entries.numel() * (made or written)[0].element_size()
        elif read:
            moved += (PASSES.get(plain, 1) - 1) * _bytes(read[0])
        converted = plain is aten._to_copy and read[0].dtype != made[0].dtype
        self._note(Cost(bytes=moved, cast_bytes=moved if converted else 0))
