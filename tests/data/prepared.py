"""What the tests of texts share: preparing one, and reading the splits without Blocks."""

import json
from pathlib import Path

import numpy as np

from pipeline.config import DataConfig, DataSource
from pipeline.data.blocks import SPLITS
from pipeline.data.prepare import prepare
from pipeline.models.tokenizer import Tokenizer

END = 256  # of the byte tokenizer


def config(path: Path | str | list[str], source: str = "text", **changes: object) -> DataConfig:
    settings = {"name": "test", "block_size": 16, "validation": 0.1, "calibration": 0.2, "workers": 1}
    where = path if isinstance(path, list) else str(path)
    return DataConfig(**settings | {"source": DataSource(source), "path": where} | changes)


def made(data: DataConfig, tokenizer: Tokenizer, folder: Path) -> dict[str, np.ndarray]:
    """All tokens of each split."""
    folder.mkdir(exist_ok=True)
    prepare(data, tokenizer, folder)
    index = json.loads((folder / "index.json").read_text())
    return {split: np.fromfile(folder / f"{split}.bin", index["dtype"]) for split in SPLITS}


def documents(tokens: np.ndarray) -> list[bytes]:
    """The texts that the byte tokens of a split spell."""
    pieces = np.split(tokens, np.flatnonzero(tokens == END))
    return [bytes((piece[1:] if i else piece).astype(np.uint8)) for i, piece in enumerate(pieces)]


def texts(data: DataConfig, tokenizer: Tokenizer, folder: Path) -> list[str]:
    """The documents of all splits, sorted."""
    return sorted(text.decode() for tokens in made(data, tokenizer, folder).values() for text in documents(tokens))
