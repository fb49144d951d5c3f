"""From the losses of a candidate on calibration blocks to its fitness; lower is better."""

import math
from collections.abc import Sequence

from pipeline.config import Fitness

LARGEST_EXPONENT = 700.0  # math.exp overflows just above


def mean(losses: Sequence[float]) -> float:
    """The mean in one rounding, whatever the order; inf where one loss is not finite."""
    total = math.fsum(losses) if all(map(math.isfinite, losses)) else math.inf
    return total / len(losses)


def fitness_of(kind: Fitness, losses: Sequence[float]) -> float:
    """`losses` are means over the tokens of one block each, in nats: negative log-likelihoods, whose mean's exponential
    is the perplexity, or KL(teacher || candidate), whose mean is itself the fitness. inf where one is not finite."""
    value = mean(losses)
    if kind == Fitness.kl:
        return value
    return math.exp(value) if value < LARGEST_EXPONENT else math.inf
