"""The training loop on a fake card: prefetched and pinned batches, the teacher along, validation, and checkpoints.

DeepSpeed's engine needs a real card. Plain AdamW stands in for it, and one process for the group of ranks."""

import json

import pytest
import torch
from covering import slow
from test_device_models import model_of
from test_device_training import Blocks, settings, student_of

from pipeline.config import CheckpointConfig, DeepSpeedConfig, Loss, Sharing
from pipeline.models.precision import autocast
from pipeline.training import checkpoints, distill, distributed, engine
from pipeline.training.throughput import Flops
from pipeline.training.validation import shared_nll

CPU = torch.device("cpu")


class PlainEngine:
    """As engine.Engine at ZeRO stage 0, without DeepSpeed."""

    stage = 0

    def __init__(self, student, config, deepspeed, batches, precision, device):
        self.student, self.batches, self.precision, self.device = student, batches, precision, device
        self.optimizer = engine._optimizer(student, config)
        engine._make_moments(self.optimizer)

    def evaluate(self, function):
        with torch.no_grad():
            return function(self.student)

    def step(self, batches, loss, lr):
        for batch in batches:
            with autocast(self.precision, self.device):
                value, *_ = loss(self.student, batch.to(self.device, non_blocking=True))
            value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": value.item()}

    def close(self):
        pass


@pytest.mark.parametrize("precision", ["bf16-mixed", *slow([["fp32"]])])
def test_a_training_runs_and_resumes_there(cuda, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(distill, "Engine", PlainEngine)
    monkeypatch.setattr(distributed, "start", lambda device: device)
    monkeypatch.setattr(distributed, "any_rank", lambda words, device: words)
    monkeypatch.setattr(checkpoints, "broadcast", lambda value: value)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    pinned = []
    pin = torch.Tensor.pin_memory
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or pin(tensor))
    config = settings(Loss.js, global_batch=2, micro_batch=1, checkpoint=CheckpointConfig(tokens=16))
    config.tokens = 64
    seen = []

    def train(until):
        return distill.distill(
            student_of("qwen2", Sharing.layerwise, CPU),
            model_of("qwen2", CPU),
            None,
            Blocks(),
            config,
            lr=1e-3,
            deepspeed=DeepSpeedConfig(),
            seed=0,
            precision=precision,
            device=cuda,
            folder=tmp_path,
            run="x",
            flops=Flops(3, 1),
            validate=lambda model: (
                seen.append(next(model.parameters()).device.type)
                or shared_nll(model, Blocks().take(range(3)), 2, precision)
            ),
            log=lambda line: None,
            until=until,
        )

    train(until=2)
    trained = train(until=None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert set(seen) == {"cuda"} and len(pinned) == 2 * 4, "each micro-batch once"
    assert {parameter.device.type for parameter in trained.parameters()} == {"cpu"}
