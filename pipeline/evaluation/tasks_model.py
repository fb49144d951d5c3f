"""A litgpt model, layer-wise or not, as lm-eval asks for one: log-likelihoods of continuations, batched."""

import sys
from contextlib import redirect_stderr
from typing import Any

import torch
from litgpt import GPT
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pipeline.errors import SprigError
from pipeline.evaluation import packing
from pipeline.evaluation.answers import Answer, Answers
from pipeline.evaluation.packing import Row, Text
from pipeline.models.head import chunk_tokens
from pipeline.models.perplexity import CPU_CHUNK_TOKENS
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states
from pipeline.models.tokenizer import Tokenizer
from pipeline.progress import Progress


class Scorer(TemplateLM):
    """Scores like lm-eval's HF backend on the exported model; it does not generate.

    What texts have in common at their beginning, such as a question with its choices, is run once. A batch holds as
    many as fit into `batch_tokens` tokens, at least one. Too long texts lose tokens from the left. Requests that
    `answers` has from an earlier process are not run again.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, precision: str, batch_tokens: int, title: str, answers: Answers
    ):
        super().__init__()
        self.model, self._tokenizer, self.precision = model, tokenizer, precision
        self.batch_tokens, self.title = batch_tokens, title
        self.answers, self._calls = answers, 0
        self._stderr = sys.stderr

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._tokenizer.bos_id if self._tokenizer.bos_id is not None else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._tokenizer.encode(string, special=add_special_tokens is not False)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)  # Sprig's own progress is shown

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = True) -> list[float]:
        """Of whole texts, cut into windows of the model's context."""
        windows, owners = [], []
        for place, request in enumerate(requests):
            cut = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.model.max_seq_length, context_len=1
            )
            for window in map(make_disjoint_window, cut):
                windows.append((None, *window))
                owners.append(place)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += value
        return sums

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
        raise NotImplementedError("tasks that generate are refused before they run")

    def _loglikelihood_tokens(self, requests: list, **_: Any) -> list[tuple[float, bool]]:
        """Requests (texts, context's tokens, continuation's tokens) to (log-likelihood in nats, whether greedy decoding
        gives this continuation)."""
        limit = self.model.max_seq_length + 1
        askers: dict[Text, list[int]] = {}  # which requests are answered by a text
        for place, (_, context, continuation) in enumerate(requests):
            if len(continuation) >= limit:
                raise SprigError(
                    f"{self.title}: an answer of {len(continuation)} tokens does not fit into the model's context of "
                    f"{limit - 1}: take this task out of evaluate.tasks."
                )
            askers.setdefault(tuple((context + continuation)[-limit:-1]), []).append(place)
        answers = self.answers.of_call(self._calls)
        progress = Progress(self.title, total=len(requests), unit="requests", start=len(answers))
        with redirect_stderr(self._stderr), progress:
            for batch in packing.batches(packing.rows(askers, self.batch_tokens), self.batch_tokens):
                asked = [
                    (place, number, path[-len(requests[place][2]) :], requests[place][2])
                    for number, row in enumerate(batch)
                    for text, path in row.texts.items()
                    for place in askers[text]
                ]
                # As a whole, also after a kill: rounding depends on which requests share a batch.
                if any(place not in answers for place, *_ in asked):
                    self.answers.add(self._calls, self._score(batch, asked))
                    progress.advance(len(asked))
        self._calls += 1
        return [answers[place] for place in range(len(requests))]

    @torch.no_grad()
    def _score(self, batch: list[Row], asked: list[tuple[int, int, list[int], list[int]]]) -> dict[int, Answer]:
        """`asked`: (place of the request, its row, for each token of the continuation where the one before it is, the
        continuation); answers by place."""
        device = self.model.transformer.wte.weight.device
        tokens, places, mask = (each.to(device) for each in packing.tensors(batch))
        rows = [row for _, row, path, _ in asked for _ in path]
        columns = [column for _, _, path, _ in asked for column in path]
        targets = [token for *_, continuation in asked for token in continuation]
        with autocast(self.precision, device):
            hidden = hidden_states(self.model, tokens, tree=(places, mask))[rows, columns]
            likely, greedy = self._against(hidden, torch.tensor(targets, device=device))
        lengths = [len(continuation) for *_, continuation in asked]
        return {
            place: (float(values.sum()), bool(hits.all()))
            for (place, *_), values, hits in zip(asked, likely.split(lengths), greedy.split(lengths), strict=True)
        }

    def _against(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of hidden states (n, n_embd): log-probabilities of targets (n) in fp32, and whether each is the likeliest."""
        likely, greedy, rows = [], [], chunk_tokens(hidden.device, CPU_CHUNK_TOKENS)
        for states, tokens in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = self.model.lm_head(states)[:, : self.model.config.vocab_size].float()
            likely.append(logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1))
            greedy.append(logits.argmax(dim=1) == tokens)
        return torch.cat(likely).cpu(), torch.cat(greedy).cpu()
