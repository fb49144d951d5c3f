"""Texts that begin alike, packed into one row as a tree of tokens, so that what they share is run once."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Text = tuple[int, ...]
SHARED = 3  # a text joins the row of the one before it where they share a third of its tokens


class Row:
    """A tree of tokens, of which each sees itself and its ancestors alone.

    `places` has how many ancestors each token has, which is its position in its text.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parents: list[int | None] = []
        self.places: list[int] = []
        self.texts: dict[Text, list[int]] = {}  # where each text's tokens are
        self._children: dict[tuple[int | None, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, text: Text) -> None:
        path: list[int] = []
        for place, token in enumerate(text):
            parent = path[-1] if path else None
            path.append(self._children.setdefault((parent, token), len(self)))
            if path[-1] == len(self):
                self.tokens.append(token)
                self.parents.append(parent)
                self.places.append(place)
        self.texts[text] = path

    def mask(self) -> Tensor:
        """(n, n): whether the token of a line sees the token of a column."""
        seen = torch.eye(len(self), dtype=torch.bool)
        for token, parent in enumerate(self.parents):
            if parent is not None:  # parents come before their children
                seen[token] |= seen[parent]
        return seen


def rows(texts: Iterable[Text], limit: int) -> list[Row]:
    """Different texts as rows of at most `limit` tokens, or of one text alone; from long to short, in an order that
    depends on the texts alone."""
    packed: list[Row] = []
    before: Text = ()
    for text in sorted(texts):
        shared = next((n for n, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), len(before))
        if not packed or SHARED * shared < len(text) or len(packed[-1]) + len(text) - shared > limit:
            packed.append(Row())
        packed[-1].add(text)
        before = text
    return sorted(packed, key=len, reverse=True)


def batches(packed: list[Row], limit: int) -> Iterator[list[Row]]:
    """Rows from long to short, in lists of at most `limit` tokens with their padding, at least one row in each."""
    while packed:
        count = max(limit // len(packed[0]), 1)
        yield packed[:count]
        packed = packed[count:]


def tensors(batch: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, T) and their places in the texts (B, T), padded with zeros, and which see which (B, 1, T, T)."""
    length = len(batch[0])
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    places = torch.zeros(len(batch), length, dtype=torch.long)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(batch), 1, 1, 1)  # padding sees itself: a softmax needs one
    for number, row in enumerate(batch):
        tokens[number, : len(row)] = torch.tensor(row.tokens)
        places[number, : len(row)] = torch.tensor(row.places)
        mask[number, 0, : len(row), : len(row)] = row.mask()
    return tokens, places, mask
