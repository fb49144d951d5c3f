"""Every loss, over ZeRO stages and two ranks, against the dense loop in plain PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import LR, SEED, TinyBlocks, metrics, settings, student, teacher
from torch.nn import functional as F

from pipeline.config import Loss
from pipeline.training.order import block_numbers
from pipeline.training.schedules import learning_rate

HERE = Path(__file__).parent


def dense(loss, p, q):
    m = (p + q) / 2
    kl = {"forward_kl": p * (p / q).log(), "reverse_kl": q * (q / p).log()}
    kl["js"] = (p * (p / m).log() + q * (q / m).log()) / 2
    return kl[loss].sum(1).mean()


def reference(loss):
    """Two steps on whole batches in plain PyTorch."""
    model, config = student(), settings()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer, lines = torch.optim.AdamW(groups, betas=(0.9, 0.95)), []
    for step in (1, 2):
        tokens = TinyBlocks().take(block_numbers(20, SEED, 4 * (step - 1), 4))
        logits, theirs = (m(tokens[:, :-1])[..., :90].flatten(0, 1) for m in (model, teacher()))
        value = ce = F.cross_entropy(logits, tokens[:, 1:].flatten())
        if loss != Loss.ce:
            value = 0.5 * ce + 0.5 * 4 * dense(loss, (theirs.detach() / 2).softmax(1), (logits / 2).softmax(1))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(64 * step, 128, LR, config.schedule)
        optimizer.step()
        lines.append(value.item())
    return lines, model.state_dict()


@pytest.mark.slow
def test_every_loss_equals_the_plain_loop_at_every_stage(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finished = subprocess.run(
        [*command, str(HERE / "two_ranks_losses.py"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    for loss in Loss:
        lines, weights = reference(loss)
        for stage in range(4):
            place = tmp_path / f"{loss}{stage}"
            assert [line["loss"] for line in metrics(place) if "loss" in line] == pytest.approx(lines, rel=1e-5), place
            for name, value in torch.load(place / "weights.pth", weights_only=True).items():
                torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-5, msg=f"{place} {name}")
