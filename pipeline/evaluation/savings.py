"""What a sub-network start saves, as the paper counts it: the control's cost over ours at the control's quality."""

import math
from dataclasses import dataclass


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


def savings(student: list[tuple[int, float]], control: list[tuple[int, float]], costs: Costs) -> dict:
    """Savings of the student over the control, in tokens, student FLOPs and total FLOPs.

    The target is the control's last point; total FLOPs add teacher, order and search to the student's side and the
    teacher to the control's. Reached before training: tokens and student FLOPs have no finite saving (null), the total
    has. Not reached: each figure is an upper bound, taken at the student's last token.
    """
    control_tokens, target_nll = control[-1]
    reach = tokens_to_reach(student, target_nll)
    reached = "not reached" if reach is None else "before training" if reach == 0 else "in training"
    tokens = student[-1][0] if reach is None else reach
    total = costs.order + costs.search + (costs.student_per_token + costs.teacher_per_token) * tokens
    control_total = (costs.control_per_token + costs.teacher_per_token) * control_tokens
    return {
        "tokens": control_tokens / tokens if tokens else None,
        "student_flops": costs.control_per_token * control_tokens / (costs.student_per_token * tokens)
        if tokens
        else None,
        "total_flops": control_total / total if total else None,
        "target_perplexity": math.exp(target_nll),
        "reached": reached,
    }
