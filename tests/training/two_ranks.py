"""Checks that need two ranks, over one process group: `two_ranks.py FOLDER few` or `two_ranks.py FOLDER more`.

The second rank is forked off after the imports, which take longer than the trainings.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from tiny_training import budget, settings, spiking, stable_phase, train

from pipeline import cli
from pipeline.config import DeepSpeedConfig, Dtype
from pipeline.errors import SprigError
from pipeline.ranks import rank
from pipeline.training import checkpoints, distill
from pipeline.training.distributed import import_deepspeed


def few(folder: Path) -> None:
    at_stages(folder, 2, 3)
    # From one rank at ZeRO 0, for the test to take to one rank at ZeRO 3.
    with contextlib.suppress(KeyboardInterrupt):
        train(folder / "one_two_one", config=settings(micro_batch=1), stage=2, lives=5)
    with mock.patch.object(checkpoints, "in_background", lambda device: True):
        train(folder / "background", config=settings(micro_batch=1), stage=2, until=4)
    communicate(folder, 1)
    spike(folder, 2)
    try:
        train(folder / "refused", config=settings(micro_batch=4))
    except SprigError as error:
        (folder / f"refused{rank()}.txt").write_text(str(error))
    die(folder)


def die(folder: Path) -> None:
    """Rank 1, while rank 0 waits for it."""
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        cli._guarded(lambda: torch.distributed.broadcast(torch.zeros(1), src=1), [])
    except SystemExit as stop:
        (folder / "alone.txt").write_text(str(stop.code))


def communicate(folder: Path, stage: int) -> None:
    """With gradients in either type, as the paper's presets overlap them; notes how many entries each type carried."""
    from deepspeed import comm

    overlapped, reduce = {"overlap_comm": True, "reduce_bucket_size": 2_000}, comm.all_reduce
    for dtype in Dtype:
        sent = Counter()

        def counted(tensor, *arguments, sent=sent, **options):
            sent[str(tensor.dtype)] += tensor.numel()
            return reduce(tensor, *arguments, **options)

        with mock.patch.object(comm, "all_reduce", counted):
            zero = DeepSpeedConfig(stage, communication=dtype, zero_optimization=overlapped)
            at = folder / f"{dtype}{stage}"
            train(at, config=settings(micro_batch=1), precision="bf16-mixed", deepspeed=zero, until=2)
        (at / f"sent{rank()}.json").write_text(json.dumps(sent))


def at_stages(folder: Path, *stages: int) -> None:
    for stage in stages:
        trained = train(folder / f"stage{stage}", config=settings(micro_batch=1), stage=stage)
        if rank() == 1:
            torch.save(trained.state_dict(), folder / f"stage{stage}.pth")


def more(folder: Path) -> None:
    at_stages(folder, 0, 1)
    communicate(folder, 2)
    # The test left a checkpoint of one rank at ZeRO 0 here.
    train(folder / "one_to_two", config=settings(micro_batch=1), stage=3)
    with contextlib.suppress(KeyboardInterrupt):
        train(folder / "two_to_one", config=settings(micro_batch=1), stage=2, lives=9)
    # From the stable phase of the test, of one rank at ZeRO 0, and from one of both ranks that goes on from it.
    longer = replace(budget(8), micro_batch=1)
    stable = stable_phase(folder / "stable6", 6, longer, begin=folder / "stable3", stage=2)
    train(folder / "extended", config=longer, begin=stable, stage=2)
    spike(folder, 0)


def spike(folder: Path, stage: int) -> None:
    honest = distill.distillation_loss
    distill.distillation_loss = spiking("gradient", at=3) if rank() == 1 else honest
    train(folder / f"spike{stage}", config=settings(micro_batch=1, skip_nonfinite=1), stage=stage)
    distill.distillation_loss = honest


def start() -> int:
    """The process id of the second rank in the first, and 0 in the second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    import_deepspeed(torch.device("cpu"))
    second = os.fork()
    os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), "0" if second else "1")
    return second


second = start()
{"few": few, "more": more}[sys.argv[2]](Path(sys.argv[1]))
if second:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) != {"few": -signal.SIGKILL, "more": 0}[sys.argv[2]])
