"""Texts packed into rows: each is there once, sees itself alone, and what is shared is there once."""

import numpy as np
import pytest

from pipeline.evaluation import packing


def random_texts(rng: np.random.Generator) -> set[packing.Text]:
    """Of few different tokens, so that many begin alike and some begin others."""
    return {tuple(map(int, rng.integers(0, 3, rng.integers(1, 12)))) for _ in range(60)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1, 20, 1000])
def test_every_text_is_in_one_row_and_its_tokens_see_itself_alone(seed, limit):
    texts = random_texts(np.random.default_rng(seed))
    rows = packing.rows(texts, limit)
    assert sorted(text for row in rows for text in row.texts) == sorted(texts)
    assert all(len(row) <= limit or len(row.texts) == 1 for row in rows)
    seen_batches = list(packing.batches(rows, limit))
    assert [row for batch in seen_batches for row in batch] == rows
    for batch in seen_batches:
        tokens, places, mask = packing.tensors(batch)
        assert tokens.numel() <= limit or len(batch) == 1
        for number, row in enumerate(batch):
            beginnings = {text[:end] for text in row.texts for end in range(1, len(text) + 1)}
            assert len(row) == len(beginnings), "each once"
            for text, path in row.texts.items():
                assert tuple(tokens[number, path].tolist()) == text
                assert places[number, path].tolist() == list(range(len(text)))
                for place, token in enumerate(path):
                    assert mask[number, 0, token].nonzero()[:, 0].tolist() == sorted(path[: place + 1])
