"""What is wrong with a text is said in one sentence, with the cure, and nothing is left behind."""

import errno
import json
import os

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.config import DataConfig, DataSource
from pipeline.data.blocks import Blocks
from pipeline.data.files import local_files, opened
from pipeline.data.prepare import identify, prepare
from pipeline.errors import SprigError

GOOD = {f"{i}.txt": f"text number {i} ".encode() * 9 for i in range(9)}


@pytest.fixture
def refuse(tokenizer, tmp_path):
    """Writes files, prepares them, and returns the error's sentence."""

    def run(files: dict[str, bytes], path="texts", source="text", **changes) -> str:
        (tmp_path / "texts").mkdir()
        for name, content in files.items():
            (tmp_path / "texts" / name).write_bytes(content)
        data = DataConfig(
            **{"name": "mine", "block_size": 16, "workers": 1, "validation": 0.2, "calibration": 0.2}
            | {"source": DataSource(source), "path": str(tmp_path / path) if source != "hub" else path}
            | changes
        )
        (tmp_path / "out").mkdir()
        with pytest.raises(SprigError) as caught:
            prepare(data, tokenizer, tmp_path / "out")
        assert "index.json" not in os.listdir(tmp_path / "out")
        sentence = str(caught.value)
        assert "\n" not in sentence and sentence.endswith(".")
        return sentence

    return run


def test_no_such_path(refuse, tmp_path):
    assert f"{tmp_path}/elsewhere does not exist" in refuse({}, path="elsewhere")


def test_a_path_that_is_neither_a_file_nor_a_folder(refuse, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/nowhere")
    assert f"{tmp_path}/pipe is a named pipe, not a file or a folder" in refuse({}, path="pipe")
    for path, said in (("link", "is a link to /nowhere, which does not exist"), ("/dev/null", "is a device")):
        with pytest.raises(SprigError, match=said):
            local_files(DataConfig(name="mine", source=DataSource.text, path=str(tmp_path / path), block_size=16))


def test_folder_without_such_files(refuse):
    assert "holds no files ending in .txt, .md" in refuse({"a.html": b"x"})


def test_glob_without_files(refuse):
    assert "texts/*.tex holds no files" in refuse(GOOD, path="texts/*.tex")


def test_package_that_is_not_installed(refuse):
    sentence = refuse({}, package="no_such_package")
    assert "no_such_package is not installed" in sentence and "pip install" in sentence


@pytest.mark.parametrize("content", [b"", b" \n\n \n"])
@pytest.mark.parametrize("source, name", [("text", "a.txt"), ("jsonl", "a.jsonl")])
def test_no_text(refuse, content, source, name):
    assert "Data mine has no text" in refuse({name: content}, source=source)


def test_blank_rows_are_no_text(refuse):
    said = refuse({"a.jsonl": b'{"text": ""}\n{"text": null}\n{"text": " "}\n'}, source="jsonl")
    assert "mine has no text" in said and "or set data.text_key=text to the column that holds the text" in said


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("text.", "data.text_key=text. looks inside column 'text', which holds text: set data.text_key to one of"),
        ("text.body", "looks inside column 'text', which holds text: set data.text_key to one of text."),
        ("n.body", "looks inside column 'n', which holds int: correct the file or data.text_key."),
    ],
)
def test_a_key_that_looks_inside_a_text(refuse, key, said):
    rows = b'{"text": "words", "n": 1}\n' * 9
    assert said in refuse({"a.jsonl": rows}, source="jsonl", text_key=key)


@pytest.mark.parametrize("streamed", [{}, {"max_tokens": 10_000}])
def test_not_utf8(refuse, tmp_path, streamed):
    broken = "ä" * 700_000 + "x"
    sentence = refuse(GOOD | {"5.txt": broken.encode() + "café".encode("latin-1")}, **streamed)
    assert f"{tmp_path}/texts/5.txt is not UTF-8 (byte 1,400,004)" in sentence


def test_jsonl_that_is_not_utf8(refuse):
    assert "a.jsonl is not UTF-8 (byte 13)" in refuse(
        {"a.jsonl": '{"text": "caf\xe9"}\n'.encode("latin-1")}, source="jsonl"
    )


def test_text_that_ends_inside_a_character(refuse):
    assert "5.txt is not UTF-8 (byte 3)" in refuse(GOOD | {"5.txt": "caf\xe9".encode()[:-1]})


def test_broken_json(refuse):
    sentence = refuse({"a.jsonl": b'{"text": "one"}\n{"text": "two"\n'}, source="jsonl")
    assert "texts/a.jsonl, line 2 is not JSON (Expecting ',' delimiter at column 15)" in sentence


def test_json_that_is_cut(refuse):
    said = refuse({"a.jsonl": b'{"text": "a"}\n{"text": "b'}, source="jsonl")
    assert "a.jsonl, line 2 is not JSON (Unterminated string starting at column 10)" in said


def test_json_lines_that_are_no_rows(refuse):
    assert "a.jsonl, row 1 holds int, not text or an object" in refuse({"a.jsonl": b"1\n2\n"}, source="jsonl")


def test_not_parquet(refuse):
    assert "texts/a.parquet cannot be read as parquet" in refuse({"a.parquet": b"words"}, source="parquet")


@pytest.mark.parametrize("streamed", [{}, {"max_tokens": 10_000}])
def test_missing_column(refuse, streamed):
    rows = b"".join(json.dumps({"body": "words " * i, "n": i}).encode() + b"\n" for i in range(9))
    sentence = refuse({"a.jsonl": rows}, source="jsonl", **streamed)
    assert "no column 'text'" in sentence and "body, n" in sentence


def test_a_missing_column_is_told_with_the_columns_of_all_rows(refuse):
    rows = b'{"content": "words", "x": 1}\n' * 40 + b'{"y": 3}\n'
    assert "set data.text_key to one of content, x, y." in refuse({"a.jsonl": rows}, source="jsonl")


def test_column_that_is_no_text(refuse, tmp_path):
    table = pyarrow.Table.from_pylist([{"text": i, "body": "words"} for i in range(9)])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    sentence = refuse({"a.parquet": sink.getvalue().to_pybytes()}, source="parquet")
    assert "column 'text' holds int, not text" in sentence


def test_too_few_documents(refuse):
    sentence = refuse({"a.txt": b"words " * 99, "b.txt": b"words " * 99, "c.txt": b"other words " * 99})
    assert "has 3 documents, 2 of them distinct" in sentence
    assert sentence.endswith(": give more documents, or split them with data.sample_by=paragraph or line.")


def test_too_few_paragraphs(refuse):
    sentence = refuse({"a.txt": b"a paragraph\n\n" * 99}, sample_by="paragraph")
    assert "has 99 documents, 1 of them distinct" in sentence and sentence.endswith(": give more documents.")


def test_shares_that_leave_no_text_to_train_on(refuse):
    sentence = refuse(dict(list(GOOD.items())[:3]), max_tokens=9999, validation=0.5, calibration=0.49)
    assert sentence.endswith(
        "none is left for train (data.validation=0.5, data.calibration=0.49): give more documents, raise "
        "data.max_tokens=9999, lower the shares, or split them with data.sample_by=paragraph or line."
    )


ROWS = [{"text": "words"}, {"text": ""}, {"text": " \n"}, {"text": None}]


@pytest.mark.parametrize("source, sparse", [("jsonl", ROWS), ("jsonl", [*ROWS, {"n": 1}]), ("parquet", ROWS)])
def test_rows_without_text_are_told_where_too_few_are_left(refuse, source, sparse):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(sparse), sink)
    lines = "".join(f"{json.dumps(row)}\n" for row in sparse).encode()
    said = refuse({f"a.{source}": lines if source == "jsonl" else sink.getvalue().to_pybytes()}, source=source)
    count = f"{len(sparse) - 1} of {len(sparse)}"
    assert f"has 1 document ({count} rows have no text in column 'text'), and none is left" in said
    assert ": give more documents, or set another data.text_key (text)." in said and "sample_by" not in said


def test_files_without_text_are_told_where_too_few_are_left(refuse):
    said = refuse({"a.txt": b"words", "b.txt": b"", "c.txt": b" \n"})
    assert "has 1 document (2 of 3 files have no text), and none is left" in said


@pytest.mark.parametrize("sample_by", ["line", "paragraph"])
def test_blank_lines_and_paragraphs_only_separate(refuse, sample_by):
    assert "no text" not in refuse({"a.txt": b"words\n\n\n\n\n\nwords"}, sample_by=sample_by)


def test_rows_without_text_are_told_where_a_split_is_too_short(refuse):
    rows = [{"text": text} for text in ["a few words", "other words", "more of them", "", " ", "one more"]]
    said = refuse({"a.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows).encode()}, source="jsonl", block_size=99)
    assert "of 4 documents (2 of 6 rows have no text in column 'text'), but one block needs 100" in said


def test_text_shorter_than_a_block(refuse):
    sentence = refuse(GOOD, block_size=1000)
    assert "block needs 1,001" in sentence and "data.block_size" in sentence and "tokens in" in sentence


def test_one_block_exactly_and_one_token_less(refuse, tokenizer, tmp_path):
    """Nine documents of 16 tokens: a split of one document is 16 tokens, exactly one block of 15."""
    files = {f"{i}.txt": f"{i}".encode() * 16 for i in range(9)}
    assert "has 16 tokens in 1 of 9 documents" in refuse(files, validation=0.1, calibration=0.1)
    (tmp_path / "good").mkdir()
    data = DataConfig(
        name="mine",
        source=DataSource.text,
        path=str(tmp_path / "texts"),
        block_size=15,
        validation=0.1,
        calibration=0.1,
    )
    prepare(data, tokenizer, tmp_path / "good")
    assert len(Blocks(tmp_path / "good", "validation")) == 1
    with pytest.raises(SprigError, match="2 blocks were requested from the validation split, which has 1"):
        Blocks(tmp_path / "good", "validation").evenly(2)


@pytest.mark.parametrize("streamed", [{}, {"streaming": True, "max_tokens": 1000}])
def test_hub_without_a_network(refuse, monkeypatch, streamed):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    sentence = refuse({}, path="some/dataset", source="hub", subset="small", **streamed)
    assert "some/dataset (subset small, split train) could not be read from the hub" in sentence
    assert sentence.endswith("(HF_HUB_OFFLINE is set): unset it, or use local files.")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_place_that_cannot_be_written_is_not_the_texts_fault(number, wrapped, tokenizer, tmp_path, monkeypatch):
    """As `datasets` fails when it writes what it reads; the entrypoint explains these."""

    def load_dataset(*_, **__):
        error = OSError(number, os.strerror(number))
        if wrapped:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from error
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = DataConfig(name="mine", source=DataSource.hub, path="some/dataset", block_size=16)
    with pytest.raises(OSError) as caught:
        prepare(data, tokenizer, tmp_path)
    assert caught.value.errno == number


def test_a_text_that_may_not_be_read_is_named(tmp_path):
    with pytest.raises(SprigError, match=r"texts cannot be read \(Is a directory\): correct its permissions"):
        (tmp_path / "texts").mkdir()
        with opened(tmp_path / "texts"):
            pass


def test_identity_of_a_text_that_is_not_there(tmp_path):
    with pytest.raises(SprigError, match="does not exist"):
        identify(DataConfig(name="mine", source=DataSource.text, path=str(tmp_path / "none"), block_size=16))
