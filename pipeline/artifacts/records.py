"""Records of one size by number, in one sparse file, each with a checksum of its own.

A record is written in one call, and what it holds follows from its number alone. So there is nothing to lock and
nothing else to keep in step: processes may write to one file at once, and a record that a kill, a full disk or a
rotten disk left in pieces fails its checksum and counts as damaged, while the others stay good. The checksum covers the
file's key and the record's number too, so that a record of another file or place is damaged as well.
"""

import errno
import os
from hashlib import blake2b
from pathlib import Path

_CHECKSUM = 16  # bytes before each record; all zero where nothing was written


class Damaged(Exception):
    """A record is not what was written."""


class Records:
    """The records of a file, each of `size` bytes.

    Args:
        key: what the file is of, at most 64 bytes.
        writable: opens to write too, and makes the file where there is none.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, size: int, key: str, writable: bool):
        self.path, self.size, self._key = path, size, key.encode()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, 0o666)

    def read(self, number: int) -> bytes | None:
        """The record; None where it was never written.

        Raises:
            Damaged: it is not what was written.
        """
        found = os.pread(self._file, _CHECKSUM + self.size, number * (_CHECKSUM + self.size))
        if not found.strip(b"\0"):
            return None
        if len(found) < _CHECKSUM + self.size or found[:_CHECKSUM] != self._checksum(number, found[_CHECKSUM:]):
            raise Damaged
        return found[_CHECKSUM:]

    def write(self, number: int, record: bytes) -> None:
        """Raises OSError where it cannot be written, with the file's name; the records before it stay good."""
        if len(record) != self.size:
            raise ValueError(f"A record of {len(record)} bytes where each has {self.size}.")
        whole = self._checksum(number, record) + record
        # Not through a memory map: a full disk would end the process with SIGBUS.
        try:
            written = os.pwrite(self._file, whole, number * len(whole))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if written < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def damaged(self) -> tuple[list[int], int]:
        """The numbers of all damaged records, the one cut short at the end included, and how many were ever written."""
        bad, there = [], 0
        for number in range(-(-os.fstat(self._file).st_size // (_CHECKSUM + self.size))):
            try:
                there += self.read(number) is not None
            except Damaged:
                bad.append(number)
        return bad, there + len(bad)

    def sync(self) -> None:
        os.fsync(self._file)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._file)

    def _checksum(self, number: int, record: bytes) -> bytes:
        return blake2b(record, digest_size=_CHECKSUM, key=self._key, salt=number.to_bytes(16, "little")).digest()
