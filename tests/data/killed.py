"""Prepares the texts of a folder slowly, in small shards, and writes down what it encodes: to be killed."""

import os
import sys
import time
from pathlib import Path

from prepared import config

from pipeline.data import documents, shards
from pipeline.data.prepare import prepare
from pipeline.models.tokenizer import Tokenizer

SHARD = 900  # characters: about ten documents of the test,
BATCH = 4  # which are read so many at a time


class Recording(Tokenizer):
    """Appends each text that it encodes, and its process, to a file. Takes its time."""

    def __init__(self, folder: Path, record: Path, pause: float):
        super().__init__(folder)
        self.record, self.pause = record, pause

    def encode_batch(self, texts: list[str], special_tokens: bool = False) -> list[list[int]]:
        with self.record.open("a") as file:
            file.write("".join(f"{os.getpid()} {text}\n" for text in texts))
        time.sleep(self.pause)
        return super().encode_batch(texts, special_tokens)


def main() -> None:
    tokenizer, path, record, folder, pause = sys.argv[1:]
    shards.SHARD_CHARACTERS, documents.BATCH = SHARD, BATCH
    data = config(path, "jsonl", workers=2)
    prepare(data, Recording(Path(tokenizer), Path(record), float(pause)), Path(folder))


if __name__ == "__main__":
    main()
