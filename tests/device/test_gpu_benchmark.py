"""benchmarks.gpu measures with a card alone: what it then does is run here on tiny models and the CPU."""

from dataclasses import replace

import tiny
import torch

from benchmarks import gpu
from pipeline.config import Loss
from pipeline.models import head
from pipeline.models.families import architecture_of
from pipeline.subnetwork.value import whole
from pipeline.training import engine, losses

TINY = tiny.config("gpt_neox")


def test_every_row_is_measured(monkeypatch):
    architecture = architecture_of(TINY, tied=False)
    sub = whole(architecture)
    sizes = {"BLOCKS": 1, "LENGTH": 16, "SEARCHED": 2, "CHUNK": 8, "WARM_UP": 0, "REPETITIONS": 1}
    models = {"TEACHER": TINY, "STUDENT": TINY, "RECOVERED": TINY, "ARCHITECTURE": architecture}
    for name, value in (sizes | models).items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "candidate", lambda sharing: replace(sub, layers=(0,), genes=sub.genes[:1]))
    compiled = []
    monkeypatch.setattr(engine, "compile_blocks", compiled.append)
    monkeypatch.setattr(losses, "_compiled_chunk", lambda: losses._chunk)
    monkeypatch.setattr(head, "_compiled", lambda function: function)
    rows, figures = gpu.measured(torch.device("cpu"))
    names = [row[0] for row in rows]
    assert all(len(row) == len(gpu.MEASURED) for row in rows)
    steps = [f"{kind}{compiled}" for compiled in ("", ", compiled") for kind in gpu.KINDS]
    candidates = [f"candidate, {each}{end}" for end in ("", ", compiled") for each in ("uniform", "layerwise")]
    assert names[:11] == [*steps, *candidates, "recovery of half of Pythia-1B"]
    assert names[11:] == [f"loss of 8 tokens, {name}" for name in ("dense", *Loss)]
    assert len(compiled) == 6, "student and teacher of three steps"
    assert all(milliseconds > 0 for milliseconds in figures.values())
