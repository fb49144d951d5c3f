"""`python -m teachers.train_tokenizer FOLDER` makes the laboratory's tokenizer: byte-level BPE with 1,024 entries.

It is trained on the training documents of `data=sotu` alone; teachers/tokenizer is what it writes.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.command_line.composition import compose
from pipeline.config import DataConfig
from pipeline.data.prepare import open_documents, split_by_hash
from pipeline.data.shards import document_hash
from pipeline.models.tokenizer import END_OF_TEXT, write

# Small, so that embedding and head are a small part of a small model, and so that the text has more tokens.
ENTRIES = 1_024


def training_texts(data: DataConfig) -> list[str]:
    """The documents that `pipeline.data.prepare` puts into the training split, in reading order."""
    with tempfile.TemporaryDirectory() as scratch:
        documents = open_documents(data, Path(scratch)).read()
        texts = [text for batch in documents for text in batch if text.strip()]
    hashes = np.array([document_hash(text, data.seed) for text in texts], np.int64)
    belongs = split_by_hash(hashes, data.validation, data.calibration)
    return [text for text, split in zip(texts, belongs, strict=True) if split == 0]


def train(texts: list[str], entries: int) -> tokenizers.Tokenizer:
    """Byte-level BPE, which can spell any text; id 0 ends one."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    write(train(training_texts(compose(["distill.tokens=1"]).data), ENTRIES), END_OF_TEXT, folder)
