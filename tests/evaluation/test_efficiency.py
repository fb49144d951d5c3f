"""What is timed, in which turns, and that medians of it come out."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from pipeline.evaluation import efficiency


class Model:
    """Notes its passes and moves the clock: a pass over n tokens takes n * pace seconds, `slow` ones ten times that."""

    def __init__(self, name: str, pace: float, clock: list, passes: list, slow: set = frozenset()):
        self.name, self.pace, self.clock, self.passes, self.slow, self.rounds = name, pace, clock, passes, slow, -1
        self.transformer = SimpleNamespace(wte=SimpleNamespace(weight=torch.zeros(1)))
        self.config = SimpleNamespace(vocab_size=3)

    def hidden(self, tokens: torch.Tensor, start: int) -> torch.Tensor:
        self.rounds += start == 0
        self.passes.append((self.name, start, tokens.tolist()[0]))
        self.clock[0] += tokens.size(1) * self.pace * (10 if self.rounds in self.slow else 1)
        return torch.zeros(1, tokens.size(1), 1)

    def lm_head(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 1.0, 0.0, 9.0]).expand(1, hidden.size(1), 4)  # the last is a padding row


def test_speeds_are_medians_of_passes_in_turn(monkeypatch):
    clock, passes = [0.0], []
    monkeypatch.setattr(efficiency, "_now", lambda device: clock[0])
    monkeypatch.setattr(efficiency, "kv_cache", lambda model, length: nullcontext())
    monkeypatch.setattr(efficiency, "hidden_states", lambda model, tokens, start: model.hidden(tokens, start))
    models = {
        "teacher": Model("teacher", 0.5, clock, passes, slow={0, 2}),  # while it warms up, and once more
        "student": Model("student", 0.25, clock, passes),
    }
    speeds = efficiency.speeds(models, torch.tensor([2, 0, 2, 1]), decode=2, repetitions=3, precision="fp32")
    assert speeds == {"teacher": {"prefill": 2.0, "decode": 2.0}, "student": {"prefill": 4.0, "decode": 4.0}}
    one = [(0, [2, 0, 2, 1]), (4, [1]), (5, [1])]
    assert passes == [(name, *each) for _ in range(4) for name in models for each in one]
