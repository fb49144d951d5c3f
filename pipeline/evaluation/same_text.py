"""The text of blocks in the tokens of another vocabulary, so that models of both are scored on the same bytes."""

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.models.perplexity import summed_nll
from pipeline.models.tokenizer import Tokenizer

Row = list[int]


def retokenised(blocks: Tensor, cut: Tokenizer, uncut: Tokenizer, special_tokens: bool) -> list[Row]:
    """The targets of each block (n, T + 1) in the tokens of `uncut`, behind one token of context.

    Every token of `cut` is one of `uncut`. `special_tokens` as in the preparation of the text. A row has at most T + 1
    tokens: where another reading of its ends would have more, it keeps its own.
    """

    def encoded(row: Row) -> Row:
        texts: list[Row] = [[]]
        for token in row:
            if token == cut.eos_id:
                texts.append([])
            else:
                texts[-1].append(token)
        read = uncut.encode_batch([cut.decode(text) for text in texts], special_tokens)
        return [token for text in read for token in (*text, uncut.eos_id)][:-1]

    found = []
    for row in blocks.tolist():
        own = [uncut.id_of(cut.token_of(token)) for token in row]
        found.append(min(own[:1] + encoded(row[1:]), own, key=len))
    return found


def nll(model: GPT, rows: list[Row], precision: str) -> tuple[float, int]:
    """The sum of the negative log-likelihood in nats of all tokens but the first of each row, and their number."""
    total = sum(summed_nll(model, torch.tensor([row]), precision).item() for row in rows)
    return total, sum(len(row) - 1 for row in rows)
