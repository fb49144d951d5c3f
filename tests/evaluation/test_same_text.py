"""Blocks of a cut vocabulary, read with the whole one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluation.same_text import retokenised
from pipeline.models.tokenizer import Tokenizer
from pipeline.models.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
LENGTH = 24


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> tuple[Tokenizer, Tokenizer]:
    """The laboratory's tokenizer, with 400 and all 1,024 tokens."""
    whole, cut = ROOT / "teachers/tokenizer", tmp_path_factory.mktemp("cut")
    entries = Vocabulary(whole)
    entries.write(entries.most_used(np.zeros(1024, int), 400), cut)
    return Tokenizer(cut), Tokenizer(whole)


def test_the_text_is_the_same_in_fewer_tokens(tokenizers):
    cut, uncut = tokenizers
    ids = cut.encode((ROOT / "LICENSE").read_text()[:4_000].replace("\n\n", "<|endoftext|>"))
    blocks = torch.tensor(ids)[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    assert (blocks == cut.eos_id).any()
    rows = retokenised(blocks, cut, uncut, special_tokens=False)
    for row, block in zip(rows, blocks.tolist(), strict=True):
        assert uncut.decode(row) == cut.decode(block)
        assert uncut.decode(row[:1]) == cut.decode(block[:1]) and len(row) <= LENGTH
    assert sum(map(len, rows)) < 0.9 * blocks.numel()


def test_a_row_of_any_tokens_is_no_longer_than_its_block(tokenizers):
    """Halves of characters are read as replacement characters, of three bytes each."""
    cut, uncut = tokenizers
    blocks = torch.randint(400, (50, LENGTH), generator=torch.Generator().manual_seed(0))
    rows = retokenised(blocks, cut, uncut, special_tokens=False)
    assert max(map(len, rows)) == LENGTH
    own = [[uncut.id_of(cut.token_of(token)) for token in block] for block in blocks.tolist()]
    assert sum(row == each for row, each in zip(rows, own, strict=True)) > 10
