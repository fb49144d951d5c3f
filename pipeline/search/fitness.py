"""From the losses of a candidate on calibration blocks to its fitness; lower is better."""

import math
from collections.abc import Sequence

from pipeline.config import Fitness

LARGEST_EXPONENT = 700.0  # math.exp overflows just above


def mean(losses: Sequence[float]) -> float:
    """The mean with a single rounding, independent of the order; inf if a loss is not finite."""
    total = math.fsum(losses) if all(map(math.isfinite, losses)) else math.inf
    return total / len(losses)


def fitness_of(kind: str, losses: Sequence[float]) -> float:
    """The fitness from the losses of the blocks, each a mean over its tokens in nats. For negative log-likelihoods it
    is the perplexity; for KL(teacher || candidate) and the user's own functions, the mean loss. inf if a loss is not
    finite."""
    value = mean(losses)
    if kind != Fitness.perplexity:
        return value
    return math.exp(value) if value < LARGEST_EXPONENT else math.inf
