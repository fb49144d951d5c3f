"""What a sub-network start saves, as the paper counts it: the control's cost over ours at the control's quality."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """FLOPs. `search` is the search's own evaluations; a random baseline's are not part of it."""

    order: int
    search: int
    student_per_token: int  # forward and backward
    control_per_token: int
    teacher_per_token: int  # forward; 0 without distillation


def tokens_to_reach(curve: list[tuple[int, float]], target_nll: float) -> float | None:
    """Tokens at which a validation curve [(tokens, nats a token), ...] is first at or below the target.

    Log perplexity is interpolated linearly over tokens; 0.0 means that it stood there before training; None that it
    was never reached.
    """
    previous_tokens, previous = curve[0]
    if previous <= target_nll:
        return 0.0
    for tokens, nll in curve[1:]:
        if nll <= target_nll:
            return previous_tokens + (tokens - previous_tokens) * (previous - target_nll) / (previous - nll)
        previous_tokens, previous = tokens, nll
    return None


def nll_at(curve: list[tuple[int, float]], tokens: float) -> float:
    """A validation curve between its points, linear in tokens; before the first and after the last it is level."""
    return float(np.interp(tokens, *zip(*curve, strict=True)))


def savings(student: list[tuple[int, float]], control: list[tuple[int, float]], costs: Costs) -> dict:
    """The four savings of the student over the control: tokens, and FLOPs of the student alone, with the teacher
    (`training_flops`), and with order and search (`total_flops`).

    The target is the control's last point. The teacher is on both sides, order and search on the student's alone.
    Reached before training: only the total has a finite saving, the others are null. Not reached: each figure is an
    upper bound, taken at the student's last token.
    """
    control_tokens, target_nll = control[-1]
    reach = tokens_to_reach(student, target_nll)
    reached = "not reached" if reach is None else "before training" if reach == 0 else "in training"
    tokens = student[-1][0] if reach is None else reach

    def saving(control_per_token: int, student_per_token: int, before: int = 0) -> float | None:
        ours = before + student_per_token * tokens
        return control_per_token * control_tokens / ours if ours else None

    trained = costs.control_per_token + costs.teacher_per_token, costs.student_per_token + costs.teacher_per_token
    return {
        "tokens": saving(1, 1),
        "student_flops": saving(costs.control_per_token, costs.student_per_token),
        "training_flops": saving(*trained),
        "total_flops": saving(*trained, before=costs.order + costs.search),
        "target_perplexity": math.exp(target_nll),
        "reached": reached,
    }
