import math
from itertools import pairwise

import pytest

from pipeline.config import ScheduleConfig, ScheduleKind
from pipeline.training.schedules import learning_rate

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


@pytest.mark.parametrize("kind", ScheduleKind)
@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_extreme_warm_ups(kind, warmup):
    rates = curve(kind=kind, warmup=warmup, decay=0.0)
    assert max(rates) == pytest.approx(PEAK)
    assert all(math.isfinite(rate) for rate in rates)
