"""The losses of untrained sub-networks: the very model that extraction yields, run on calibration blocks."""

import math
from collections.abc import Iterator

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.config import Fitness
from pipeline.hardware import give_back_memory
from pipeline.models.extraction import extract
from pipeline.models.head import token_kl, token_nll
from pipeline.models.precision import autocast
from pipeline.models.student import block_outputs, hidden_states, is_stock
from pipeline.search.prefixes import Prefixes, arrange, prefixes
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork

CHUNK_TOKENS = 128  # tokens whose logits exist at one time: a candidate itself is to be what takes the memory


class Evaluator:
    """Scores candidates of one teacher on fixed blocks (n, T + 1).

    `batch` blocks run at a time. A block's loss does not depend on what `prefix_bytes` of kept hidden states save: in
    fp32 on a CPU it is the same to the bit.
    """

    def __init__(
        self,
        teacher: GPT,
        ordering: Ordering,
        blocks: Tensor,
        precision: str,
        batch: int,
        *,
        fitness: Fitness = Fitness.perplexity,
        prefix_bytes: int = 0,
    ):
        self.teacher, self.ordering, self.precision, self.fitness = teacher, ordering, precision, fitness
        device = next(teacher.parameters()).device
        self.chunks = blocks.to(device).split(batch)
        self.prefixes = Prefixes(prefix_bytes) if prefix_bytes else None
        self._targets: dict[int, Tensor] = {}

    def run(self, subs: list[SubNetwork]) -> Iterator[tuple[int, list[float]]]:
        """Each candidate's number and its mean loss in nats a token on each block, in whatever order is quickest; a
        loss that is not finite is inf."""
        numbers = list(range(len(subs)))
        if self.prefixes is not None:
            numbers = arrange(subs)
            self.prefixes.expect(self._path(subs[number]) for number in numbers)
        for number in numbers:
            losses = self._losses(subs[number])
            # Kept states lie between freed candidates, and malloc would hold on to the holes (benchmarks/RESULTS.md).
            give_back_memory()
            yield number, losses

    def _path(self, sub: SubNetwork) -> list:
        return prefixes(sub, is_stock(self.teacher.config, sub))

    @torch.no_grad()
    def _losses(self, sub: SubNetwork) -> list[float]:
        path = self._path(sub)
        chunks = list(range(len(self.chunks)))
        depths = dict.fromkeys(chunks, 0) if self.prefixes is None else self.prefixes.hold(path, chunks)
        model = extract(self.teacher, sub, self.ordering, min(depths.values()), own=False)
        losses = []
        for chunk, depth in depths.items():
            with autocast(self.precision, self.chunks[chunk].device):
                each = self._token_losses(model, self._hidden(model, path, chunk, depth), chunk)
            losses += each.double().mean(dim=1).tolist()
        return [loss if math.isfinite(loss) else math.inf for loss in losses]

    def _hidden(self, model: GPT, path: list, chunk: int, depth: int) -> Tensor:
        tokens = self.chunks[chunk][:, :-1]
        x = self.prefixes.get(path[depth], chunk) if depth else model.transformer.wte(tokens)
        for prefix, state in zip(path[depth + 1 :], block_outputs(model, x, depth), strict=True):
            x = state
            if self.prefixes is not None:
                self.prefixes.add(prefix, chunk, x)
        return model.transformer.ln_f(x)

    def _token_losses(self, model: GPT, hidden: Tensor, chunk: int) -> Tensor:
        tokens = self.chunks[chunk]
        if self.fitness == Fitness.perplexity:
            return token_nll(model, hidden, tokens[:, 1:], CHUNK_TOKENS)
        if chunk not in self._targets:
            # Hidden states instead of logits: the vocabulary is some eighty times as wide.
            self._targets[chunk] = hidden_states(self.teacher, tokens[:, :-1])
        return token_kl(self.teacher, self._targets[chunk], model, hidden, CHUNK_TOKENS)
