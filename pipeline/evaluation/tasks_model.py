"""A litgpt model, layer-wise or not, as lm-eval asks for one: log-likelihoods of continuations, batched."""

import sys
from contextlib import redirect_stderr

import torch
from litgpt import GPT
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pipeline.errors import SprigError
from pipeline.models.precision import autocast
from pipeline.models.student import hidden_states
from pipeline.models.tokenizer import Tokenizer
from pipeline.progress import Progress

CHUNK_TOKENS = 512  # tokens whose logits exist at one time


class Scorer(TemplateLM):
    """Scores like lm-eval's HF backend on the exported model; it does not generate.

    A batch holds as many requests as fit into `batch_tokens` tokens, at least one. Inputs that are the same, such as a
    question with answers of one token, are run once. Too long ones lose tokens from the left.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, precision: str, batch_tokens: int, title: str):
        super().__init__()
        self.model, self._tokenizer, self.precision = model, tokenizer, precision
        self.batch_tokens, self.title = batch_tokens, title
        self._stderr = sys.stderr

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._tokenizer.bos_id if self._tokenizer.bos_id is not None else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
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

    def _loglikelihood_tokens(self, requests: list, **_) -> list[tuple[float, bool]]:
        """Requests (texts, context's tokens, continuation's tokens) to (log-likelihood in nats, whether greedy decoding
        gives this continuation)."""
        limit = self.model.max_seq_length + 1
        askers: dict[tuple[int, ...], list[int]] = {}  # which requests are answered by an input
        for place, (_, context, continuation) in enumerate(requests):
            if len(continuation) >= limit:
                raise SprigError(
                    f"{self.title}: an answer of {len(continuation)} tokens does not fit into the model's context of "
                    f"{limit - 1}: take this task out of evaluate.tasks."
                )
            askers.setdefault(tuple((context + continuation)[-limit:-1]), []).append(place)
        answers: list = [None] * len(requests)
        with redirect_stderr(self._stderr), Progress(self.title, total=len(requests), unit="requests") as progress:
            # Ties in a fixed order: rounding depends on who shares a batch.
            for batch in self._batches(sorted(askers, key=lambda tokens: (-len(tokens), tokens))):
                places = [(row, place) for row, tokens in enumerate(batch) for place in askers[tokens]]
                for place, answer in self._score(batch, [(row, place, requests[place][2]) for row, place in places]):
                    answers[place] = answer
                progress.advance(len(places))
        return answers

    def _batches(self, inputs: list[tuple[int, ...]]):
        """Inputs from long to short, in lists of at most batch_tokens with their padding."""
        while inputs:
            count = max(self.batch_tokens // len(inputs[0]), 1)
            yield inputs[:count]
            inputs = inputs[count:]

    @torch.no_grad()
    def _score(self, inputs: list[tuple[int, ...]], asked: list[tuple[int, int, list[int]]]):
        """`asked`: (row of the input, place of the request, continuation); yields (place, answer)."""
        device = self.model.transformer.wte.weight.device
        # Padding on the right is never looked at: attention is causal.
        padded = torch.zeros(len(inputs), len(inputs[0]), dtype=torch.long)
        for row, tokens in enumerate(inputs):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        rows, columns, targets = [], [], []
        for row, _, continuation in asked:
            rows += [row] * len(continuation)
            columns += range(len(inputs[row]) - len(continuation), len(inputs[row]))
            targets += continuation
        with autocast(self.precision, device):
            hidden = hidden_states(self.model, padded.to(device))[rows, columns]
            likely, greedy = self._against(hidden, torch.tensor(targets, device=device))
        lengths = [len(continuation) for *_, continuation in asked]
        for (_, place, _), values, hits in zip(asked, likely.split(lengths), greedy.split(lengths), strict=True):
            yield place, (float(values.sum()), bool(hits.all()))

    def _against(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of hidden states (n, n_embd): log-probabilities of targets (n) in fp32, and whether each is the likeliest."""
        likely, greedy = [], []
        for states, tokens in zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True):
            logits = self.model.lm_head(states)[:, : self.model.config.vocab_size].float()
            likely.append(logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=1))
            greedy.append(logits.argmax(dim=1) == tokens)
        return torch.cat(likely).cpu(), torch.cat(greedy).cpu()
