"""Records of one size by number, in a folder with a file for each writer.

A writer appends to its own file alone, so machines that share a file system never write to the same page. Each record
has its number and a checksum, which covers the key of the folder too. A record that a kill, a full disk or a rotten
disk left in pieces fails its checksum and counts as damaged, while the others stay good.

`0.numbers`, next to `0.bin`, lists the number of every record in that file, so that what is there is known without
reading it. The list follows from the records: those that a kill kept out of it are read when the file is opened, and
all if the list is damaged.
"""

import errno
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from pipeline.artifacts.files import sync_folder

_CHECKSUM = 16  # bytes before each record,
_NUMBER = np.dtype("<i8")  # and between them its number
_HEAD = _CHECKSUM + _NUMBER.itemsize
_NONE = -1  # the number of a damaged record
_LARGE = 1 << 24  # a number above which a list is not trusted alone: what `Records` keeps grows with the largest


class Damaged(Exception):
    """A record is not what was written."""


class _File:
    """The records of one writer, each of `size` bytes. `numbers` (n,) are theirs, in the order of writing."""

    def __init__(self, path: Path, size: int, key: str, flags: int = os.O_RDONLY):
        self.path, self.list, self.size, self._key = path, path.with_suffix(".numbers"), size, key.encode()
        self._file = os.open(path, flags, 0o666)
        listed = np.fromfile(self.list, _NUMBER) if self.list.exists() else np.empty(0, _NUMBER)
        there = os.fstat(self._file).st_size // (_HEAD + size)  # without one that is torn at the end
        if not self._is_list(listed[:there]):
            listed = listed[:0]
        others = [self._number(self._content(slot)) for slot in range(len(listed), there)]
        self.numbers = np.append(listed[:there], np.array(others, _NUMBER))

    def _is_list(self, listed: np.ndarray) -> bool:
        """Whether these can be the numbers: none is below _NONE, and those that take much memory are in their records,
        too."""
        large = np.flatnonzero(listed > _LARGE).tolist()
        return bool((listed >= _NONE).all()) and all(self._noted(slot) == listed[slot] for slot in large)

    def _noted(self, slot: int) -> int:
        """The number in a record, whose checksum is not compared."""
        place = slot * (_HEAD + self.size) + _CHECKSUM
        return int(np.frombuffer(os.pread(self._file, _NUMBER.itemsize, place), _NUMBER)[0])

    def read(self, slot: int) -> bytes:
        """
        Raises:
            Damaged: it is not what was written. From now on, the list has no record there.
        """
        content = self._content(slot)
        if self._number(content) != self.numbers[slot]:
            self.numbers[slot] = _NONE
            with suppress(OSError), self.list.open("r+b") as file:  # it may not be writable
                file.seek(slot * _NUMBER.itemsize)
                file.write(self.numbers[slot].tobytes())
            raise Damaged
        return content[_HEAD:]

    def close(self) -> None:
        os.close(self._file)

    def _content(self, slot: int) -> bytes:
        return os.pread(self._file, _HEAD + self.size, slot * (_HEAD + self.size))

    def _number(self, content: bytes) -> int:
        """Of a record with its checksum; _NONE if it is damaged."""
        if len(content) < _HEAD + self.size or content[:_CHECKSUM] != self._checksum(content[_CHECKSUM:]):
            return _NONE
        return int(np.frombuffer(content, _NUMBER, 1, _CHECKSUM)[0])

    def _checksum(self, numbered: bytes) -> bytes:
        return blake2b(numbered, digest_size=_CHECKSUM, key=self._key).digest()


class Writer(_File):
    """Appends records to the file `name`, which is its own for as long as it is open.

    Args:
        key: what the records are of, at most 64 bytes.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(self, folder: Path, name: str, size: int, key: str):
        folder.mkdir(exist_ok=True)
        super().__init__(folder / f"{name}.bin", size, key, os.O_RDWR | os.O_CREAT)
        self._slot = len(self.numbers)
        self._list = os.open(self.list, os.O_RDWR | os.O_CREAT, 0o666)
        self._write(self._list, self.list, self.numbers.tobytes(), 0)
        os.ftruncate(self._list, self.numbers.nbytes)

    def write(self, number: int, record: bytes) -> None:
        """Raises OSError where it cannot be written, with the file's name; the records before it stay good."""
        if len(record) != self.size:
            raise ValueError(f"A record of {len(record)} bytes where each has {self.size}.")
        listed = np.array(number, _NUMBER).tobytes()
        content = self._checksum(listed + record) + listed + record
        self._write(self._file, self.path, content, self._slot * len(content))
        self._write(self._list, self.list, listed, self._slot * len(listed))
        self._slot += 1

    def close(self) -> None:
        """Makes everything durable."""
        for file in (self._file, self._list):
            os.fsync(file)
        os.close(self._list)
        super().close()
        sync_folder(self.path.parent)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _write(file: int, path: Path, content: bytes, place: int) -> None:
        # Not through a memory map: a full disk would end the process with SIGBUS.
        try:
            written = os.pwrite(file, content, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if written < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class Records:
    """The records of all writers, those that are there now; `size` and `key` as in Writer.

    Raises:
        OSError: a file cannot be opened.
    """

    def __init__(self, folder: Path, size: int, key: str):
        self._files = [_File(path, size, key) for path in sorted(folder.glob("*.bin"))]
        self._firsts = np.cumsum([0, *(len(file.numbers) for file in self._files)])
        self._numbers = np.concatenate([np.empty(0, _NUMBER), *(file.numbers for file in self._files)])
        # Where each number's record is, among those of all files one after another.
        self._places = np.full(self._numbers.max(initial=_NONE) + 1, _NONE)
        there = np.flatnonzero(self._numbers != _NONE)
        self._places[self._numbers[there]] = there

    def missing(self, numbers: np.ndarray) -> np.ndarray:
        """Those of the numbers that have no record, in their order. Reads no record."""
        there = numbers < len(self._places)
        there[there] = self._places[numbers[there]] != _NONE
        return numbers[~there]

    def read(self, number: int) -> bytes | None:
        """The record; None if there is none.

        Raises:
            Damaged: it is not what was written. From now on, it is missing.
        """
        place = self._places[number] if number < len(self._places) else _NONE
        if place == _NONE:
            return None
        file = int(np.searchsorted(self._firsts, place, side="right")) - 1
        try:
            return self._files[file].read(int(place - self._firsts[file]))
        except Damaged:
            self._places[number] = _NONE
            raise

    def damaged(self) -> tuple[list[int], int]:
        """Reads all records. Returns the numbers of the damaged ones, which are missing from now on, and how many were
        there."""
        bad, there = [], np.flatnonzero(self._places != _NONE)
        for number in there.tolist():
            try:
                self.read(number)
            except Damaged:
                bad.append(number)
        return bad, len(there)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
