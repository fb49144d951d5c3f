"""Run by torchrun as two processes: `two_ranks_losses.py FOLDER`. Every loss at every ZeRO stage, one process group."""

import sys
from pathlib import Path

import torch
from tiny_training import settings, train

from pipeline.config import Loss
from pipeline.ranks import rank


def main(folder: Path) -> None:
    for loss in Loss:
        for stage in range(4):
            place = folder / f"{loss}{stage}"
            trained = train(place, config=settings(loss=loss, micro_batch=1, tokens=128), stage=stage)
            if rank() == 1:
                torch.save(trained.state_dict(), place / "weights.pth")


main(Path(sys.argv[1]))
