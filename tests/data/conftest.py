"""The byte tokenizer: what the tokens of a text are can be read off its bytes."""

from pathlib import Path

import pytest

from pipeline.models.tokenizer import Tokenizer, write_bytes


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_bytes(folder)
    return Tokenizer(folder)
