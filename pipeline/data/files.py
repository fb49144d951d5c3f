"""Which local files a data set consists of, and what identifies them."""

import glob
import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.config import DataConfig, DataSource
from pipeline.errors import SprigError

# What a folder is searched for; a glob takes whatever it matches.
SUFFIXES = {DataSource.text: (".txt", ".md"), DataSource.jsonl: (".jsonl",), DataSource.parquet: (".parquet",)}


def local_files(data: DataConfig) -> list[tuple[str, Path]]:
    """The files of a data set in reading order, each with a name that does not depend on where the data set lies.

    Entries of `data.path` are read in the order given; files of a folder or glob in the order of their names.

    Raises:
        SprigError: the package is not installed, a path does not exist, or nothing matches.
    """
    root = _package_folder(data.package) if data.package else Path()
    entries = [data.path] if isinstance(data.path, str) else list(data.path)
    return [file for entry in entries for file in _matches(data, root / Path(entry).expanduser())]


def file_hashes(data: DataConfig) -> list[list[str]]:
    """[name, SHA-256] of every local file, in reading order. Raises SprigError as `local_files`."""
    hashes = []
    for name, path in local_files(data):
        with opened(path) as file:
            hashes.append([name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashes


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file of a data set, to be read. Raises SprigError where that is not allowed, or fails."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SprigError(f"data.path: {path} cannot be read ({error.strerror}): correct its rights.") from None


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SprigError(f"data.package={package} is not installed: `pip install {package}`.")
    return Path(spec.submodule_search_locations[0])


def _matches(data: DataConfig, path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    if path.is_dir():
        root, wanted = path, "files ending in " + ", ".join(SUFFIXES[data.source])
        paths = [file for file in path.rglob("*") if file.suffix in SUFFIXES[data.source]]
    elif glob.has_magic(str(path)):
        fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        root, wanted = Path(*path.parts[:fixed]), "files"
        paths = [Path(match) for match in glob.glob(str(path), recursive=True)]
    else:
        raise SprigError(f"data.path: {path} does not exist: correct data.path.")
    named = sorted((file.relative_to(root).as_posix(), file) for file in paths if file.is_file())
    if not named:
        raise SprigError(f"data.path: {path} holds no {wanted}: correct data.path or data.source ({data.source}).")
    return named
