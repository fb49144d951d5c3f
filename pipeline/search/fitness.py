"""From the losses of a candidate on calibration blocks to its fitness; lower is better."""

import math
from collections.abc import Sequence

from pipeline.config import Fitness

LARGEST_EXPONENT = 700.0  # math.exp overflows just above


def mean(losses: Sequence[float]) -> float:
    """The mean in one rounding, whatever the order; inf where one loss is not finite."""
    total = math.fsum(losses) if all(map(math.isfinite, losses)) else math.inf
    return total / len(losses)


def fitness_of(kind: str, losses: Sequence[float]) -> float:
    """`losses` are means over the tokens of one block each, in nats. Of negative log-likelihoods the fitness is the
    perplexity; of KL(teacher || candidate), and of what the user's own function gives, it is the mean. inf where one is
    not finite."""
    value = mean(losses)
    if kind != Fitness.perplexity:
        return value
    return math.exp(value) if value < LARGEST_EXPONENT else math.inf
