"""Learning rate as a pure function of tokens."""

import math

from pipeline.config import ScheduleConfig, ScheduleKind


def learning_rate(tokens: int, budget: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of the optimizer step after which `tokens` of `budget` tokens have been seen.

    Linear warm-up from 0 to `peak` over `warmup * budget` tokens. Then `cosine` falls to `floor * peak` at the end of
    the budget (Loshchilov & Hutter 2017); `wsd` stays at the peak and falls there over the last `decay * budget` tokens
    in the 1-sqrt form (Hägele et al. 2024), which ends lower than a linear one.
    """
    warmup = schedule.warmup * budget
    if tokens < warmup:
        return peak * tokens / warmup
    start = warmup if schedule.kind == ScheduleKind.cosine else budget * (1 - schedule.decay)
    if tokens <= start:
        return peak
    progress = min(1.0, (tokens - start) / (budget - start))
    if schedule.kind == ScheduleKind.cosine:
        height = (1 + math.cos(math.pi * progress)) / 2
    else:
        height = 1 - math.sqrt(progress)
    return peak * (schedule.floor + (1 - schedule.floor) * height)
