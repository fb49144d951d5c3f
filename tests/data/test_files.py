"""Which files a data set consists of: hidden ones, links to folders, compressed ones, globs."""

import bz2
import gzip
import logging
import lzma
import os
from pathlib import Path

import pyarrow
import pytest
from covering import grid
from prepared import config, texts

from pipeline.data.files import local_files
from pipeline.data.prepare import open_documents
from pipeline.errors import SprigError

HIDDEN = (".git/config.txt", ".ipynb_checkpoints/a.txt", "sub/.cache/b.txt", "sub/._a.txt", ".c.txt", ".DS_Store")


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"contents of {name}", encoding="utf-8")
    return root


def names(path: Path | str | list[str], source: str = "text") -> list[str]:
    return [name for name, _ in local_files(config(path, source)).files]


@pytest.mark.parametrize("path", ["", "/**", "/**/*.txt"])
def test_hidden_files_and_folders_are_skipped_and_counted(tmp_path, path):
    root = write(tmp_path / "texts", "a.txt", "sub/b.txt", *HIDDEN)
    found = local_files(config(f"{root}{path}"))
    assert [name for name, _ in found.files] == ["a.txt", "sub/b.txt"]
    assert found.hidden == 6


def test_the_number_of_hidden_ones_is_logged(tmp_path, caplog):
    root = write(tmp_path / "texts", "a.txt", ".b.txt", ".git/c.txt")
    with caplog.at_level(logging.INFO, "sprig"):
        open_documents(config(root), tmp_path)
    assert f"Data test: 2 hidden files and folders of {root} are skipped." in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.INFO, "sprig"):
        open_documents(config(write(tmp_path / "other", "a.txt")), tmp_path)
    assert not caplog.messages


def test_a_hidden_folder_that_is_named_is_read(tmp_path):
    root = write(tmp_path / ".corpus", "a.txt", "sub/b.txt")
    assert names(root) == ["a.txt", "sub/b.txt"]
    assert names(f"{root}/**") == ["a.txt", "sub/b.txt"]
    assert names(f"{root}/*.txt") == ["a.txt"]


def test_a_folder_of_hidden_files_alone_holds_none(tmp_path):
    with pytest.raises(SprigError, match="holds no files ending in"):
        names(write(tmp_path / "texts", ".a.txt", ".git/b.txt"))


@pytest.mark.parametrize("path", ["", "/**", "/**/*.txt"])
def test_links_to_folders_are_followed(tmp_path, path):
    write(tmp_path / "elsewhere", "x.txt", "deep/y.txt")
    root = write(tmp_path / "texts", "a.txt", "sub/b.txt")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub" / "c.txt").symlink_to(tmp_path / "elsewhere" / "x.txt")
    (root / "dangling.txt").symlink_to(tmp_path / "nowhere")
    assert names(f"{root}{path}") == ["a.txt", "linked/deep/y.txt", "linked/x.txt", "sub/b.txt", "sub/c.txt"]


@pytest.mark.parametrize("path", ["", "/**", "/**/*.txt"])
def test_each_folder_is_read_once_and_circles_end(tmp_path, path):
    root = write(tmp_path / "texts", "sub/b.txt", "sub/deep/c.txt")
    (root / "again").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to(root)
    (root / "sub" / "deep" / "up").symlink_to(root / "sub")
    assert names(f"{root}{path}") == ["sub/b.txt", "sub/deep/c.txt"]


def test_globs_match_as_in_a_shell(tmp_path):
    root = write(tmp_path / "texts", "a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", "other/deep/e.txt", "other/f.rst")
    assert names(f"{root}/*.txt") == ["a.txt"]
    assert names(f"{root}/*/*.txt") == ["sub/c.txt"]
    assert names(f"{root}/**/deep/*") == ["other/deep/e.txt", "sub/deep/d.txt"]
    assert names(f"{root}/**/*.[tr]*t") == [
        "a.txt",
        "other/deep/e.txt",
        "other/f.rst",
        "sub/c.txt",
        "sub/deep/d.txt",
    ]
    assert names(f"{root}/s*/**/*.txt") == ["sub/c.txt", "sub/deep/d.txt"]
    assert names(f"{root}/**/sub/**/*.txt") == ["sub/c.txt", "sub/deep/d.txt"]


def test_a_glob_below_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path, "a.txt", "sub/b.txt")
    monkeypatch.chdir(tmp_path)
    assert names("**/*.txt") == ["a.txt", "sub/b.txt"]
    assert names("sub") == ["b.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    root = write(tmp_path / "texts", "a.txt", "sub/b.txt")
    (root / "sub").chmod(0)
    with pytest.raises(SprigError, match=r"texts/sub cannot be read \(Permission denied\)"):
        names(root)


OTHERS = {
    "a.jsonl": "set data.source=jsonl",
    "a.JSON": "set data.source=jsonl",
    "a.ndjson.zst": "set data.source=jsonl",
    "a.csv": "set data.source=csv",
    "a.tsv.gz": "set data.source=csv",
    "a.parquet": "set data.source=parquet",
    "a.zip": "unpack it first",
    "a.tar": "unpack it first",
    "a.tar.xz": "unpack it first",
    "a.tgz": "unpack it first",
    "a.txt.lz4": "unpack it first",
    "a.parquet.gz": "unpack it first",
    "a.pdf": "convert it to plain text first",
}


@pytest.mark.parametrize(("name", "source"), grid(OTHERS, ["text", "jsonl", "csv", "parquet"]))
@pytest.mark.parametrize("path", ["", "/*", "/**"])
def test_a_file_that_another_source_reads_is_refused(tmp_path, name, source, path):
    """Read as text, a table would be trained on with its markup; read as another table, its error would mislead."""
    root = write(tmp_path / "texts", name, *(["b.txt"] if source == "text" else []))
    cure = OTHERS[name]
    if cure == f"set data.source={source}":
        assert names(f"{root}{path or '/' + name}", source) == [name]
    else:
        with pytest.raises(SprigError, match=f"/{name} is .*data.source={source} does not read: leave it .*{cure}"):
            names(f"{root}{path or '/' + name}", source)


def test_files_of_other_kinds_in_a_folder_are_not_read(tmp_path):
    root = write(tmp_path / "texts", "a.txt", "b.md.xz", *OTHERS)
    assert names(root) == ["a.txt", "b.md.xz"]


@pytest.mark.parametrize("source", ["text", "jsonl", "csv", "parquet"])
def test_a_name_that_tells_no_kind_may_hold_any(tmp_path, source):
    root = write(tmp_path / "texts", "a.txt", "b.data", "c", "d.html")
    assert names(f"{root}/*", source) == ["a.txt", "b.data", "c", "d.html"]


COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}


@pytest.mark.parametrize(("kind", "path"), grid(COMPRESS, ["texts", "texts/**/*.txt.*"]))
def test_compressed_files_are_found_and_decompressed(tokenizer, tmp_path, kind, path):
    wanted = [f"text number {number}, wörds\n" for number in range(20)]
    frame_larger_than_a_portion = "wörd " * 250_000
    wanted.append(frame_larger_than_a_portion)
    folder = tmp_path / "texts" / "sub"
    folder.mkdir(parents=True)
    for number, text in enumerate(wanted):
        (folder / f"{number}.txt.{kind}").write_bytes(COMPRESS[kind](text.encode()))
    (folder / f"notes.rst.{kind}").write_bytes(b"x") if "*" not in path else None
    assert texts(config(tmp_path / path), tokenizer, tmp_path / "out") == sorted(wanted)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_that_is_cut_short_is_named(tokenizer, tmp_path, kind):
    content = COMPRESS[kind](os.urandom(50_000).hex().encode())
    (tmp_path / f"a.txt.{kind}").write_bytes(content[: len(content) // 2])
    with pytest.raises(SprigError, match=f"a.txt.{kind} cannot be read as text .*truncated or damaged"):
        texts(config(tmp_path / f"a.txt.{kind}"), tokenizer, tmp_path / "out")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_file_that_is_not_compressed_as_it_says_is_named(tokenizer, tmp_path, kind):
    (tmp_path / f"a.txt.{kind}").write_bytes(b"plain text " * 99)
    with pytest.raises(SprigError, match=f"a.txt.{kind} cannot be read as text"):
        texts(config(tmp_path / f"a.txt.{kind}"), tokenizer, tmp_path / "out")
