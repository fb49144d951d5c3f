"""The process group that DeepSpeed works over, the same for one process and for many."""

import atexit
import os
import warnings
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import distributed

from pipeline import peers
from pipeline.errors import SprigError
from pipeline.ranks import local_world_size, rank, world_size

# Rank 0 may order or evaluate for hours while the others wait; a rank that dies is noticed by pipeline.peers.
_TIMEOUT = timedelta(days=7)
# For Python objects, in addition to NCCL: a waiting rank then keeps no GPU busy, and a dead one is an error at once.
_objects: distributed.ProcessGroup | None = None


def start(device: torch.device) -> torch.device:
    """Joins this process to its group, made here if there is none and left at exit; the rank's own device.

    Raises:
        SprigError: as `check_processes`.
    """
    global _objects
    if device.type == "cuda":
        check_processes()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if world_size() == 1:  # a lone process needs no port that another one could hold
            store = distributed.HashStore()
            distributed.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=0, world_size=1)
        else:
            distributed.init_process_group(backend, timeout=_TIMEOUT)
        if backend == "nccl" and world_size() > 1:
            _objects = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        address = broadcast(peers.listen() if rank() == 0 else None) if world_size() > 1 else None
        if address is not None and rank() != 0:
            peers.join(address)
        # Not after each training: DeepSpeed keeps groups of its own for the life of the process.
        atexit.register(_leave)
    return device


def check_processes() -> None:
    """Raises SprigError where more processes than GPUs run on this machine."""
    processes, gpus = local_world_size(), torch.cuda.device_count()
    if processes > gpus:
        raise SprigError(
            f"{processes} processes on this machine but {gpus} GPUs: start at most {gpus}, or set device=cpu."
        )


def _leave() -> None:
    peers.leave()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def objects() -> distributed.ProcessGroup | None:
    """The group for Python objects; None is the default group."""
    return _objects


def broadcast(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    values = [value if rank() == 0 else None]
    distributed.broadcast_object_list(values, src=0, group=_objects)
    return values[0]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks of a tensor of each, in place."""
    distributed.all_reduce(tensor)
    return tensor


def any_rank(flags: list[bool], device: torch.device) -> list[bool]:
    """Which of these flags are true on some rank, on every rank the same."""
    raised = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(raised, distributed.ReduceOp.MAX)
    return raised.bool().tolist()


def import_deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed, imported late because it takes seconds, for the device that the run uses, and with nothing to build.

    Its shared-memory collective is of use to inference alone, yet every start on a CPU would compile it (a minute, a
    C++ compiler, and a lock file that a killed build leaves behind).
    """
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it, for one process too
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path.cwd() / ".cache" / "torch_extensions"))
    # DeepSpeed calls what torch 2.13 renamed, at every collective.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
