"""Tokenised text in durable shards, so that a killed tokenisation resumes with the shards that it lacks.

A shard holds the ids of some consecutive documents, and where reading stood before and after them. Which documents it
holds follows from the text alone. It is written by the process that encodes it, in one rename.
"""

import hashlib
import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.arrays import Damaged, arrays_of, write_arrays
from pipeline.data.documents import BATCH, Documents
from pipeline.errors import SprigError
from pipeline.models.tokenizer import Tokenizer
from pipeline.progress import Progress

SHARD_CHARACTERS = 4_000_000  # text of a shard, and a little more: it ends with a batch of documents
# With data.max_tokens, how much text is read at one time to get there: English takes about this many.
CHARACTERS_PER_TOKEN = 4
AHEAD = 2  # shards a worker that are read before they are needed


log = logging.getLogger("sprig")


@dataclass(frozen=True)
class Extent:
    """What a shard covers: reading stood at `begin` before it and at `end` after it; it has `tokens`, of documents
    that are not blank. `done` is the progress of reading at its end, in the data set's own unit."""

    begin: Any
    end: Any
    done: int
    tokens: int = 0


@dataclass(frozen=True)
class Encoding:
    """What turns texts into a shard."""

    tokenizer: Tokenizer
    dtype: np.dtype
    seed: int
    special_tokens: bool


@dataclass(frozen=True)
class Portion:
    """The text of a shard that is still to be made; without texts, of one that is there."""

    path: Path
    extent: Extent
    texts: list[str] | None = None
    characters: int = 0


def tokenise(documents: Documents, data: DataConfig, encoding: Encoding, folder: Path) -> int:
    """Tokenises a data set into the shards 0, 1, ... of `folder`, `data.workers` at a time, and keeps finished ones.

    Returns:
        How many shards hold the text; with `data.max_tokens` as many as are needed for that many tokens.

    Raises:
        SprigError: the text cannot be read, or a process died; finished shards stay.
    """
    unit, total = (documents.unit, documents.size) if data.max_tokens is None else ("tokens", data.max_tokens)
    with _executor(data.workers, encoding) as executor, Progress("tokenise", total, unit) as progress:
        queue = _Queue(data, executor, progress)
        try:
            for portion in _portions(documents, data, folder):
                queue.add(portion)
                while queue.due():
                    queue.take()
                if queue.tokens >= queue.wanted:
                    break
            while queue.pending and queue.tokens < queue.wanted:
                queue.take()
        except BrokenProcessPool:
            raise SprigError(
                f"A process that tokenises died: is there memory for data.workers={data.workers}? The same command "
                "resumes after the finished shards."
            ) from None
        finally:
            executor.shutdown(cancel_futures=True)
    return queue.taken


class _Queue:
    """The portions that are being made, in reading order, and what was taken from its front: shards and `tokens`."""

    def __init__(self, data: DataConfig, executor: Executor, progress: Progress):
        self.executor, self.progress = executor, progress
        self.ahead, self.limited = AHEAD * data.workers, data.max_tokens is not None
        self.wanted = inf if data.max_tokens is None else data.max_tokens
        self.pending: deque[tuple[Portion, Future[int]]] = deque()
        self.taken = self.tokens = self.done = 0
        self.worked = False

    def add(self, portion: Portion) -> None:
        self.pending.append((portion, self.executor.submit(_made, portion)))

    def due(self) -> bool:
        """Whether to take the front before reading more: it is done, or enough was read."""
        if not self.pending:
            return False
        expected = sum(portion.characters for portion, _ in self.pending) / CHARACTERS_PER_TOKEN
        return len(self.pending) > self.ahead or self.tokens + expected >= self.wanted or self.pending[0][1].done()

    def take(self) -> None:
        portion, future = self.pending.popleft()
        self.tokens += future.result()
        self.taken += 1
        self.worked |= portion.texts is not None
        # The last shard is whole, and may hold far more than is wanted.
        before, self.done = self.done, min(self.tokens, int(self.wanted)) if self.limited else portion.extent.done
        if self.worked:
            self.progress.advance(self.done - before, tokens=f"{self.tokens:,}")
        else:
            self.progress.begin_at(self.done)


def shard(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.npz"


def tokens_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A shard's ids, each document's ending with the end-of-text token, and the lengths of its documents in tokens,
    that token included."""
    ids, lengths = arrays_of(path, "ids", "lengths")
    return ids, lengths


def documents_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The lengths and hashes of a shard's documents; the ids are not read."""
    lengths, hashes = arrays_of(path, "lengths", "hashes")
    return lengths, hashes


def _portions(documents: Documents, data: DataConfig, folder: Path) -> Iterator[Portion]:
    """The shards in reading order: those that are there, and the text of the others."""
    limit = SHARD_CHARACTERS
    if data.max_tokens is not None:
        limit = min(limit, CHARACTERS_PER_TOKEN * data.max_tokens)
    place, batches = None, None
    for number in count():
        path = shard(folder, number)
        extent = _extent(path)
        if extent is not None and extent.begin == place:
            yield Portion(path, extent)
            place, batches = extent.end, None
            continue
        if batches is None:
            batches = documents.read(place)
        texts, characters = [], 0
        for batch in batches:
            texts += [text for text in batch if text.strip()]
            characters += sum(map(len, batch))
            if characters >= limit and texts:
                break
        if not texts:
            return
        begin, place = place, documents.place()
        yield Portion(path, Extent(begin, place, documents.done), texts, characters)


def _extent(path: Path) -> Extent | None:
    if not path.exists():
        return None
    try:
        (extent,) = arrays_of(path, "extent", everything=True)
        return Extent(**json.loads(str(extent)))
    except Damaged as error:
        log.warning("%s", error)
        return None


_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Here(Executor):
    """Encodes in this process, at once."""

    def submit(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        future.set_result(function(*args, **kwargs))
        return future


@contextmanager
def _executor(workers: int, encoding: Encoding) -> Iterator[Executor]:
    if workers == 1:
        _begin(encoding)
        yield _Here()
        return
    # Forked: a process that is spawned would import the script that called, and the tokenizer need not pickle.
    parent = os.getpid()
    with ProcessPoolExecutor(workers, get_context("fork"), _begin_worker, (encoding, parent)) as executor:
        yield executor


_encoding: Encoding


def _begin(encoding: Encoding) -> None:
    global _encoding
    _encoding = encoding


def _begin_worker(encoding: Encoding, parent: int) -> None:
    _begin(encoding)
    # The tokenizer's own threads would fight over the processes' cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C and SIGTERM reach all processes of a job: the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent cannot end its workers, which would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _made(portion: Portion) -> int:
    """Makes a shard; its number of tokens."""
    if portion.texts is None:
        return portion.extent.tokens
    end = [_encoding.tokenizer.eos_id]
    arrays, hashes = [], []
    for start in range(0, len(portion.texts), BATCH):
        texts = portion.texts[start : start + BATCH]
        for ids in _encoding.tokenizer.encode_batch(texts, special_tokens=_encoding.special_tokens):
            arrays.append(np.array(ids + end, _encoding.dtype))
        hashes += [document_hash(text, _encoding.seed) for text in texts]
    joined, lengths = np.concatenate(arrays), np.array([len(each) for each in arrays])
    extent = Extent(portion.extent.begin, portion.extent.end, portion.extent.done, len(joined))
    write_arrays(
        portion.path,
        ids=joined,
        lengths=lengths,
        hashes=np.array(hashes, np.int64),
        extent=np.array(json.dumps(vars(extent))),
    )
    return len(joined)


def document_hash(text: str, seed: int) -> int:
    """What decides the split of a document. Texts that differ only in the blanks around them have one hash."""
    digest = hashlib.blake2b(f"{seed}\n{text.strip()}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
