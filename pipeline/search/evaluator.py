"""The fitness of an untrained sub-network: the very model that extraction yields, run on calibration blocks."""

import math

import torch
from litgpt import GPT

from pipeline.models.extraction import extract
from pipeline.models.perplexity import mean_nll
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork

LARGEST_EXPONENT = 700.0  # math.exp overflows just above


class Evaluator:
    """Scores candidates of one teacher on fixed blocks (n, T + 1)."""

    def __init__(self, teacher: GPT, ordering: Ordering, blocks: torch.Tensor, precision: str, batch: int):
        self.teacher, self.ordering, self.blocks = teacher, ordering, blocks
        self.precision, self.batch = precision, batch

    def __call__(self, subnetwork: SubNetwork, blocks: int) -> float:
        """Perplexity of the untrained sub-network on so many blocks, evenly spaced over all; inf where the loss is not
        finite."""
        model = extract(self.teacher, subnetwork, self.ordering)
        chosen = self.blocks[torch.arange(blocks) * len(self.blocks) // blocks]
        nll = mean_nll(model, chosen, self.batch, self.precision)
        return math.exp(nll) if nll < LARGEST_EXPONENT else math.inf  # false for nan, too
