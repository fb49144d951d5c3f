"""The losses of untrained sub-networks on calibration blocks, computed by the models that extraction yields."""

import math
from collections import deque
from collections.abc import Callable, Iterator

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.config import Fitness
from pipeline.config.own import function, is_own, running
from pipeline.errors import SprigError
from pipeline.hardware import give_back_memory
from pipeline.models.extraction import extract
from pipeline.models.head import chunk_tokens, token_kl, token_nll
from pipeline.models.precision import autocast, lower
from pipeline.models.student import hidden_states
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork

# The user's own fitness: maps teacher, candidate and tokens (B, T + 1) to the loss of each block (B,), lower is better.
OwnFitness = Callable[[GPT, GPT, Tensor], Tensor]
CPU_CHUNK_TOKENS = 128  # the candidate itself should dominate the memory


class Evaluator:
    """Evaluates candidates of one teacher on fixed blocks (n, T + 1), `batch` blocks at a time. `compiled`: see
    token_nll."""

    def __init__(
        self,
        teacher: GPT,
        ordering: Ordering,
        blocks: Tensor,
        precision: str,
        batch: int,
        *,
        fitness: str = Fitness.perplexity,
        compiled: bool = False,
    ):
        self.teacher, self.ordering, self.precision, self.fitness = teacher, ordering, precision, fitness
        self.compiled = compiled
        device = next(teacher.parameters()).device
        self.chunks = blocks.to(device).split(batch)
        self.chunk = chunk_tokens(device, CPU_CHUNK_TOKENS)
        # A GPU computes while the next candidate is cut. On a CPU, this would only delay the results.
        self.ahead = 1 if device.type == "cuda" else 0
        self.own: OwnFitness | None = function("search.fitness", fitness) if is_own(fitness) else None
        self._targets: dict[int, Tensor] = {}

    def run(self, subs: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        """Yields each candidate's number and its mean loss per block, in nats per token; inf if a loss is not
        finite."""
        begun: deque[tuple[int, Tensor]] = deque()
        for number, sub in enumerate(subs):
            begun.append((number, self._losses(sub)))
            if not self.ahead:
                give_back_memory()  # malloc would keep what the candidate took (benchmarks/RESULTS.md)
            if len(begun) > self.ahead:
                yield _read(*begun.popleft())
        for each in begun:
            yield _read(*each)

    @torch.no_grad()
    def _losses(self, sub: SubNetwork) -> Tensor:
        """Mean loss on each block (n,), in float64 on the device, which may still be computing it."""
        model = extract(self.teacher, sub, self.ordering, own=False)
        lower(model, self.precision)
        losses = []
        for number, tokens in enumerate(self.chunks):
            with autocast(self.precision, tokens.device):
                if self.own is not None:
                    losses.append(self._own_losses(self.own, model, tokens))
                    continue
                each = self._token_losses(model, hidden_states(model, tokens[:, :-1]), number)
            losses.append(each.double().mean(dim=1))
        return torch.cat(losses)

    def _own_losses(self, own: OwnFitness, model: GPT, tokens: Tensor) -> Tensor:
        with running("search.fitness", self.fitness):
            losses = own(self.teacher, model, tokens)
        if not isinstance(losses, Tensor) or losses.shape != tokens.shape[:1] or losses.is_complex():
            given = f"{losses.dtype} of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else repr(losses)
            raise SprigError(
                f"search.fitness={self.fitness} must return one loss for each of {len(tokens)} blocks, a tensor of "
                f"shape ({len(tokens)},), but returned {given[:100]}."
            )
        return losses.double()

    def _token_losses(self, model: GPT, hidden: Tensor, chunk: int) -> Tensor:
        tokens = self.chunks[chunk]
        if self.fitness == Fitness.perplexity:
            return token_nll(model, hidden, tokens[:, 1:], self.chunk, self.compiled)
        if chunk not in self._targets:
            # Keep hidden states instead of logits, because the vocabulary is about eighty times as wide.
            self._targets[chunk] = hidden_states(self.teacher, tokens[:, :-1])
        return token_kl(self.teacher, self._targets[chunk], model, hidden, self.chunk)


def _read(number: int, losses: Tensor) -> tuple[int, list[float]]:
    return number, [loss if math.isfinite(loss) else math.inf for loss in losses.tolist()]
