"""The files that an interrupted preparation resumes from: written in one step, and compared when they are read."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from pipeline.artifacts import replacing
from pipeline.errors import SprigError

# What a damaged .npz file makes zipfile and numpy raise.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    TypeError,
    ArithmeticError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Damaged(SprigError):
    """A file that an interrupted preparation resumes from is not what was written. It was removed."""

    def __init__(self, path: Path, reason: object):
        super().__init__(f"{path} was damaged ({reason}) and removed; what it held is tokenised again.")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a .npz file durably, in one step: after a power cut it is there in full or not at all."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def arrays_of(path: Path, *names: str, everything: bool = False) -> list[np.ndarray]:
    """Arrays that `write_arrays` wrote, compared with the checksums in the file; those of the others too, with
    `everything`.

    Raises:
        Damaged: the file is not what was written, and was removed.
    """
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist() if everything else [f"{name}.npy" for name in names]:
                with file.open(name) as array:  # its checksum is compared at its end, but numpy trusts its beginning
                    while array.read(1 << 20):
                        pass
        with np.load(path) as saved:
            return [saved[name] for name in names]
    except _UNREADABLE as error:
        path.unlink(missing_ok=True)
        raise Damaged(path, error) from error
