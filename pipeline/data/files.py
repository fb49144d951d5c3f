"""Which local files a data set consists of, and what identifies them."""

import glob
import hashlib
import importlib.util
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path

from pipeline.config import DataConfig, DataSource
from pipeline.config.paths import expanded, wrong_with
from pipeline.errors import SprigError

# What a folder is searched for, compressed or not; a glob takes whatever it matches.
SUFFIXES = {
    DataSource.text: (".txt", ".md"),
    DataSource.jsonl: (".jsonl",),
    DataSource.csv: (".csv", ".tsv"),
    DataSource.parquet: (".parquet",),
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# Files of other kinds, by what they are for: the source that reads them, or what to do with them first.
READ_BY = {
    **{suffix: source for source, own in SUFFIXES.items() if source != DataSource.text for suffix in own},
    ".ndjson": DataSource.jsonl,
    ".json": DataSource.jsonl,
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".7z", ".rar", ".lz4", ".lzma", ".br", ".z")
DOCUMENTS = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".avro")


@dataclass(frozen=True)
class LocalFiles:
    """The files of a data set in reading order, each with a name that does not depend on where the data set lies, and
    how many hidden files and folders were left out."""

    files: list[tuple[str, Path]]
    hidden: int = 0


def local_files(data: DataConfig) -> LocalFiles:
    """The files of a data set.

    Entries of `data.path` are read in the order given; files of a folder or glob in the order of their names. Below a
    folder, and below a `**`, whatever has a name that starts with a dot is left out, and links to folders are
    followed, each folder once.

    Raises:
        SprigError: the package is not installed, a path does not exist or is not readable, or nothing matches.
    """
    root = _package_folder(data.package) if data.package else Path()
    entries = [data.path] if isinstance(data.path, str) else list(data.path)
    parts = [_matches(data, root / expanded(entry)) for entry in entries]
    return LocalFiles([file for part in parts for file in part.files], sum(part.hidden for part in parts))


def file_hashes(data: DataConfig) -> list[list[str]]:
    """[name, SHA-256] of every local file, in reading order. Raises SprigError as `local_files`."""
    hashes = []
    for name, path in local_files(data).files:
        with opened(path) as file:
            hashes.append([name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashes


def most_tokens(data: DataConfig) -> int | None:
    """About the most tokens that local files can have: one per byte, and one that ends each file. None for other files
    than plain text. Raises SprigError as `local_files`."""
    if data.source not in (DataSource.text, DataSource.jsonl, DataSource.csv):
        return None
    paths = [path for _, path in local_files(data).files]
    return None if any(map(_is_compressed, paths)) else sum(path.stat().st_size + 1 for path in paths)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file of a data set, opened for reading. Raises SprigError if that is not allowed or fails."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> SprigError:
    return SprigError(f"data.path: {path} cannot be read ({error.strerror or error}): correct its permissions.")


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SprigError(f"data.package={package} is not installed: `pip install {package}`.")
    return Path(spec.submodule_search_locations[0])


def _matches(data: DataConfig, path: Path) -> LocalFiles:
    if path.is_file():
        _check_kind(data, path)
        return LocalFiles([(path.name, path)])
    if path.is_dir():
        root, wanted = path, "files ending in " + ", ".join(SUFFIXES[data.source])
        paths, hidden = _below(path)
        paths = [file for file in paths if _suffix(file) in SUFFIXES[data.source]]
    elif glob.has_magic(str(path)):
        fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        root, wanted = Path(*path.parts[:fixed]), "files"
        paths, hidden = _expand(path.parts)
    else:
        raise SprigError(f"data.path: {path} {wrong_with(path)}: correct data.path.")
    named = sorted((file.relative_to(root).as_posix(), file) for file in paths if file.is_file())
    if not named:
        raise SprigError(f"data.path: {path} holds no {wanted}: correct data.path or data.source ({data.source}).")
    for _, file in named:
        _check_kind(data, file)
    return LocalFiles(named, hidden)


def _check_kind(data: DataConfig, file: Path) -> None:
    """Read as text, a table would be trained on with its keys and quotes, and no error would tell. Raises SprigError if
    the name says that the source does not read the file."""
    kind = _suffix(file)
    source = READ_BY.get(kind, data.source)
    other = f"data.source={data.source} does not read: leave it out of data.path, or"
    if kind in ARCHIVES or (source == DataSource.parquet and _is_compressed(file)):
        raise SprigError(f"data.path: {file} is packed, which {other} unpack it first.")
    if kind in DOCUMENTS:
        raise SprigError(f"data.path: {file} is a {kind} file, which {other} convert it to plain text first.")
    if source != data.source:
        raise SprigError(f"data.path: {file} is a {kind} file, which {other} set data.source={source}.")


def _suffix(file: Path) -> str:
    return (Path(file.stem) if _is_compressed(file) else file).suffix.lower()


def _is_compressed(file: Path) -> bool:
    return file.suffix.lower() in COMPRESSED


def _expand(parts: Sequence[str]) -> tuple[list[Path], int]:
    """What a glob matches, and how many hidden entries were left out. `**` is expanded here, because `glob` follows
    links in circles."""
    if "**" not in parts:
        return [Path(match) for match in glob.glob(str(Path(*parts)))], 0
    deep = parts.index("**")
    paths, hidden = [], 0
    for start in sorted(glob.glob(str(Path(*parts[:deep])))) if deep else ["."]:
        files, left_out = _below(Path(start))
        paths += [file for file in files if _fits(file.relative_to(start).parts, parts[deep:])]
        hidden += left_out
    return paths, hidden


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return _fits(names, patterns[1:]) or (bool(names) and _fits(names[1:], patterns))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def _below(root: Path) -> tuple[list[Path], int]:
    """All files below a folder, in no order, and how many hidden files and folders were left out.

    Links to folders are followed, after all folders that are none: so a link into the same tree adds nothing.
    """
    files, hidden, seen = [], 0, set()
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        folder = (folders or links).popleft()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise _unreadable(folder, error) from None
        for entry in entries:
            if entry.name.startswith("."):
                hidden += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(Path(entry.path))
            elif entry.is_file():
                files.append(Path(entry.path))
    return files, hidden
