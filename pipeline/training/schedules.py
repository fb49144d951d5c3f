"""Learning rate as a pure function of tokens."""

import math

from pipeline.config import ScheduleConfig, ScheduleKind
from pipeline.errors import SprigError


def warmup_tokens(schedule: ScheduleConfig, budget: int) -> int:
    return round(schedule.warmup * budget) if schedule.warmup_tokens is None else schedule.warmup_tokens


def decay_start(schedule: ScheduleConfig, budget: int) -> int:
    """Tokens after which the learning rate begins to fall: after the warm-up, or after wsd's stable phase."""
    if schedule.kind == ScheduleKind.wsd:
        return budget - round(schedule.decay * budget)
    return warmup_tokens(schedule, budget)


def check_schedule(schedule: ScheduleConfig, budget: int) -> None:
    """Raises SprigError if the warm-up exceeds the budget, or reaches into wsd's decay."""
    warm, start = warmup_tokens(schedule, budget), decay_start(schedule, budget)
    if warm > min(start, budget):
        end = f"wsd's decay begins after {start:,}" if schedule.kind == ScheduleKind.wsd else f"there are {budget:,}"
        raise SprigError(
            f"The warm-up takes {warm:,} tokens, but {end}: lower distill.schedule.warmup_tokens, or raise "
            "distill.tokens."
        )


def learning_rate(tokens: int, budget: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of the optimizer step after which `tokens` of `budget` tokens have been seen.

    Linear warm-up from 0 to `peak`. Then `cosine` (Loshchilov & Hutter 2017) and `linear` fall to `floor * peak` at the
    end of the budget; `wsd` stays at the peak and falls there over the last `decay * budget` tokens in the 1-sqrt form
    (Hägele et al. 2024), which ends lower than a linear one.
    """
    warmup, start = warmup_tokens(schedule, budget), decay_start(schedule, budget)
    if tokens < warmup:
        return peak * tokens / warmup
    if tokens <= start:
        return peak
    progress = min(1.0, (tokens - start) / (budget - start))
    height = {
        ScheduleKind.cosine: (1 + math.cos(math.pi * progress)) / 2,
        ScheduleKind.linear: 1 - progress,
        ScheduleKind.wsd: 1 - math.sqrt(progress),
    }[schedule.kind]
    return peak * (schedule.floor + (1 - schedule.floor) * height)
