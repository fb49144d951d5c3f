"""The losses of untrained sub-networks: the very model that extraction yields, run on calibration blocks."""

import math
from collections.abc import Callable, Iterator

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.config import Fitness
from pipeline.config.own import imported, is_own
from pipeline.hardware import give_back_memory
from pipeline.models.extraction import extract
from pipeline.models.head import token_kl, token_nll
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork

# A fitness of the user's: teacher, candidate and tokens (B, T + 1) to the loss of each block (B,); lower is better.
OwnFitness = Callable[[GPT, GPT, Tensor], Tensor]
CHUNK_TOKENS = 128  # tokens whose logits exist at one time: the candidate itself should dominate the memory


class Evaluator:
    """Scores candidates of one teacher on fixed blocks (n, T + 1), of which `batch` run at a time."""

    def __init__(
        self,
        teacher: GPT,
        ordering: Ordering,
        blocks: Tensor,
        precision: str,
        batch: int,
        *,
        fitness: str = Fitness.perplexity,
    ):
        self.teacher, self.ordering, self.precision, self.fitness = teacher, ordering, precision, fitness
        device = next(teacher.parameters()).device
        self.chunks = blocks.to(device).split(batch)
        self.own: OwnFitness | None = imported("search.fitness", fitness) if is_own(fitness) else None
        self._targets: dict[int, Tensor] = {}

    def run(self, subs: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        """Each candidate's number and its mean loss in nats a token on each block; a loss that is not finite is inf."""
        for number, sub in enumerate(subs):
            losses = self._losses(sub)
            give_back_memory()  # malloc would keep what the candidate took (benchmarks/RESULTS.md)
            yield number, losses

    @torch.no_grad()
    def _losses(self, sub: SubNetwork) -> list[float]:
        model = extract(self.teacher, sub, self.ordering, own=False)
        losses = []
        for number, tokens in enumerate(self.chunks):
            with autocast(self.precision, tokens.device):
                if self.own is not None:
                    losses += self.own(self.teacher, model, tokens).double().tolist()
                    continue
                each = self._token_losses(model, hidden_states(model, tokens[:, :-1]), number)
            losses += each.double().mean(dim=1).tolist()
        return [loss if math.isfinite(loss) else math.inf for loss in losses]

    def _token_losses(self, model: GPT, hidden: Tensor, chunk: int) -> Tensor:
        tokens = self.chunks[chunk]
        if self.fitness == Fitness.perplexity:
            return token_nll(model, hidden, tokens[:, 1:], CHUNK_TOKENS)
        if chunk not in self._targets:
            # Hidden states instead of logits: the vocabulary is some eighty times as wide.
            self._targets[chunk] = hidden_states(self.teacher, tokens[:, :-1])
        return token_kl(self.teacher, self._targets[chunk], model, hidden, CHUNK_TOKENS)
