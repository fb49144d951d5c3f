import math
from itertools import pairwise

import pytest

from pipeline.config import ScheduleConfig, ScheduleKind
from pipeline.errors import SprigError
from pipeline.training.schedules import check_schedule, decay_start, learning_rate

BUDGET, PEAK = 100_000, 3e-4


def curve(**schedule):
    return [learning_rate(tokens, BUDGET, PEAK, ScheduleConfig(**schedule)) for tokens in range(0, BUDGET + 1, 1000)]


@pytest.mark.parametrize("kind", ScheduleKind)
def test_warms_up_linearly_and_ends_at_the_floor(kind):
    rates = curve(kind=kind, warmup=0.1, floor=0.2)
    assert rates[:11] == pytest.approx([PEAK * step / 10 for step in range(11)])
    assert rates[-1] == pytest.approx(0.2 * PEAK)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_cosine_agrees_with_torch():
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.1 * PEAK)
    expected = []
    for _ in range(101):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert curve(kind=ScheduleKind.cosine, warmup=0.0, floor=0.1) == pytest.approx(expected, rel=1e-9)


def test_wsd_is_stable_and_then_falls_as_one_minus_the_root():
    rates = curve(kind=ScheduleKind.wsd, warmup=0.05, decay=0.2, floor=0.0)
    assert set(rates[5:81]) == {PEAK}
    assert rates[85] == pytest.approx(PEAK * (1 - math.sqrt(0.25)))
    assert rates[-1] == 0


def test_linear_falls_straight():
    rates = curve(kind=ScheduleKind.linear, warmup=0.2, floor=0.1)
    assert rates[20:] == pytest.approx([PEAK * (1 - 0.9 * step / 80) for step in range(81)])


def test_a_warm_up_in_tokens_does_not_follow_the_budget():
    schedule = ScheduleConfig(kind=ScheduleKind.wsd, warmup_tokens=4000)
    for budget in (BUDGET, 3 * BUDGET):
        assert learning_rate(1000, budget, PEAK, schedule) == pytest.approx(PEAK / 4)
        assert learning_rate(4000, budget, PEAK, schedule) == PEAK
    assert decay_start(schedule, BUDGET) == 80_000


@pytest.mark.parametrize(
    "kind, tokens, message",
    [
        ("wsd", 80_001, r"80,001 tokens, but wsd's decay begins after 80,000: lower"),
        ("cosine", 100_001, r"100,001 tokens, but there are 100,000: lower"),
    ],
)
def test_a_warm_up_that_does_not_end(kind, tokens, message):
    with pytest.raises(SprigError, match=message):
        check_schedule(ScheduleConfig(kind=ScheduleKind[kind], warmup_tokens=tokens), BUDGET)
    check_schedule(ScheduleConfig(kind=ScheduleKind[kind], warmup_tokens=tokens - 1), BUDGET)


@pytest.mark.parametrize("kind", ScheduleKind)
@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_extreme_warm_ups(kind, warmup):
    rates = curve(kind=kind, warmup=warmup, decay=0.0)
    assert max(rates) == pytest.approx(PEAK)
    assert all(math.isfinite(rate) for rate in rates)
