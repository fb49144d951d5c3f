"""CUDA tensors without a card: PyTorch's FakeTensorMode, which keeps shapes, dtypes and devices but no values.

Tensors of the CPU stay real, so that only what runs on the device is faked. An operator that mixes devices fails as it
does on a card. Not covered: pinned memory, streams, kernels, and anything that a value on the device decides.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
aten = torch.ops.aten


class _FakeCuda(FakeTensorMode):
    """Fakes what touches a CUDA tensor, and runs all else as it is.

    What is read back from the device is made up: zeros for tensors; for single numbers 0, True, or a float that is
    smaller each time, so that code which looks for an improvement finds one.
    """

    def __init__(self) -> None:
        # Real tensors may meet fake ones: those of the CPU are then checked for their device like any other.
        super().__init__(allow_non_fake_inputs=True)
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        onto = None if device is None else torch.device(device).type
        if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            return super().__torch_dispatch__(func, types, args, kwargs) if onto == "cuda" else func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return self._number(args[0].dtype)
        if func is aten._to_copy.default and onto == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0]
        if func in (aten.index.Tensor, aten.index_put_.default) and not isinstance(args[0], FakeTensor):
            raise RuntimeError("a tensor of the cpu is indexed by one of cuda")  # FakeTensorMode lets it pass
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _number(self, dtype: torch.dtype) -> bool | int | float:
        if dtype == torch.bool:
            return True
        if not dtype.is_floating_point:
            return 0
        self.reads += 1
        return 1 / self.reads


@cache
def _library() -> ctypes.CDLL:
    """fake_cuda.cpp, compiled once for each version of it and of PyTorch."""
    root = Path(torch.__file__).parent
    name = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR", tempfile.gettempdir()))
    built = folder / f"fake_cuda-{name}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = built.with_suffix(f".{os.getpid()}")
        options = ["-std=c++20", "-shared", "-fPIC", f"-I{root}/include", f"-L{root}/lib", "-lc10", "-ltorch_cpu"]
        subprocess.run([os.environ.get("CXX", "g++"), str(SOURCE), "-o", str(partial), *options], check=True)
        partial.replace(built)
    return ctypes.CDLL(str(built))


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    is_causal: bool = False,
) -> torch.Tensor:
    """What a card runs for F.scaled_dot_product_attention: without one, PyTorch chooses the operator that keeps all
    scores."""
    return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Within it every CUDA tensor is a fake one, on a machine with or without a card."""
    library = None if torch.backends.cuda.is_built() else _library()
    autocast_works = mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    pinned = mock.patch.object(torch.Tensor, "pin_memory", lambda self: self)
    bf16_works = mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    if library:
        library.enter()
    try:
        # On one thread: the engine counted its devices, and started a thread for each, before `enter`.
        with _FakeCuda(), autocast_works, bf16_works, pinned, torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        if library:
            library.leave()
