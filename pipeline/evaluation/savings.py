"""What a sub-network start saves, as the paper counts it: the control's cost over ours at the control's quality."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

Curve = Sequence[tuple[float, float]]  # a validation curve: (tokens or FLOPs, nats per token)
Curves = Mapping[str, Curve]  # by model


@dataclass(frozen=True)
class Costs:
    """FLOPs. `search` is the search's own evaluations; a random baseline's are not part of it."""

    order: int
    search: int
    student_per_token: int  # forward and backward
    control_per_token: int
    teacher_per_token: int  # forward; 0 without distillation
    recover: int = 0

    @property
    def before(self) -> int:
        """What the student costs before its training."""
        return self.order + self.search + self.recover


class Saving(TypedDict):
    """The control's cost over the student's at the control's final perplexity. A null has no finite value."""

    tokens: float | None
    student_flops: float | None
    training_flops: float | None  # with the teacher
    total_flops: float | None  # with order, search and recovery
    target_perplexity: float
    reached: str  # "in training", "before training" or "not reached": then the figures are upper bounds


class Crossing(TypedDict):
    flops: float
    perplexity: float
    ahead: str  # the model with the lower perplexity from here on


class EqualFlops(TypedDict):
    """Student and control at the same total FLOPs, which are for the student those of its whole pipeline."""

    before: int  # the student's before its training
    student_flops: float  # the student's in all
    control_flops: float
    # the largest total that both curves reach; null where the student's begins beyond the control's
    flops: float | None
    student_perplexity: float | None  # at `flops`
    control_perplexity: float | None
    ahead: str | None  # the model with the lower perplexity at `flops`; null where they are equal
    crossings: list[Crossing]  # where one falls below the other, in order


def tokens_to_reach(curve: Curve, target_nll: float) -> float | None:
    """Tokens at which a validation curve [(tokens, nats per token), ...] is first at or below the target.

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


def nll_at(curve: Curve, tokens: float) -> float:
    """A validation curve between its points, linear in tokens or FLOPs; level before the first and after the last."""
    costs, nll = zip(*curve, strict=True)
    return float(np.interp(tokens, costs, nll))


def savings(student: Curve, control: Curve, costs: Costs) -> Saving:
    """The four savings of the student over the control: tokens, and FLOPs of the student alone, with the teacher
    (`training_flops`), and with order, search and recovery (`total_flops`).

    The target is the control's last point. The teacher is on both sides, order, search and recovery on the student's
    alone. Reached before training: only the total has a finite saving, the others are null. Not reached: each figure is
    an upper bound, taken at the student's last token.
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
        "total_flops": saving(*trained, before=costs.before),
        "target_perplexity": math.exp(target_nll),
        "reached": reached,
    }


def over_flops(student: Curve, control: Curve, costs: Costs) -> tuple[Curve, Curve]:
    """Both validation curves over total FLOPs instead of tokens. The student's begins at what it costs before its
    training; the teacher is on both sides."""

    def priced(curve: Curve, per_token: int, before: int) -> Curve:
        return [(before + (per_token + costs.teacher_per_token) * tokens, nll) for tokens, nll in curve]

    return priced(student, costs.student_per_token, costs.before), priced(control, costs.control_per_token, 0)


def equal_flops(student: Curve, control: Curve, costs: Costs) -> EqualFlops:
    """The student against a control that is given the FLOPs of the student's whole pipeline: order, search, recovery,
    teacher and training. Curves are over tokens; log perplexity is interpolated linearly.

    A figure between two validations reads a model before its schedule ends.
    """
    ours, theirs = over_flops(student, control, costs)
    common = min(ours[-1][0], theirs[-1][0])
    comparable = ours[0][0] <= common
    at_common = nll_at(ours, common), nll_at(theirs, common)
    return {
        "before": costs.before,
        "student_flops": ours[-1][0],
        "control_flops": theirs[-1][0],
        "flops": common if comparable else None,
        "student_perplexity": math.exp(at_common[0]) if comparable else None,
        "control_perplexity": math.exp(at_common[1]) if comparable else None,
        "ahead": _ahead(at_common[0] - at_common[1]) if comparable else None,
        "crossings": [
            {"flops": at, "perplexity": math.exp(nll_at(ours, at)), "ahead": ahead}
            for at, ahead in _crossings(ours, theirs)
        ],
    }


def _ahead(difference: float) -> str | None:
    """The one with the lower loss, where the student's is higher by `difference`."""
    return None if difference == 0 else "student" if difference < 0 else "control"


def _crossings(student: Curve, control: Curve) -> Iterator[tuple[float, str]]:
    """Every cost at which one curve falls below the other that was lower or equal before, and which one that is."""
    low, high = max(student[0][0], control[0][0]), min(student[-1][0], control[-1][0])
    if low > high:
        return
    costs = sorted({low, high, *(cost for cost, _ in (*student, *control) if low < cost < high)})
    leading, previous = None, (low, 0.0)
    for cost in costs:
        difference = nll_at(student, cost) - nll_at(control, cost)
        ahead, (last_cost, last) = _ahead(difference), previous
        if ahead and leading and ahead != leading:
            # Where they were equal for a while, the end of it.
            yield (last_cost + (cost - last_cost) * last / (last - difference)), ahead
        leading, previous = ahead or leading, (cost, difference)
