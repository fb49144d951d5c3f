"""Where in a file the text is, for every format, and what is said of a file that is broken."""

import gzip
import io
import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet as pq
import pytest
from prepared import config, texts

from pipeline.config import SampleBy
from pipeline.data import readers
from pipeline.data.files import local_files
from pipeline.errors import SprigError

TEXTS = [f"Document {i}: " + "words and wörds. " * (3 + i % 7) for i in range(40)]


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def read(tokenizer, tmp_path):
    """Writes files, prepares them, and returns the documents, sorted."""

    def run(files: dict[str, bytes], source: str, **changes: object) -> list[str]:
        folder = tmp_path / "texts"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return texts(config(folder, source, **changes), tokenizer, tmp_path / "out")

    return run


def parquet(rows: list[dict], **options: object) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pq.write_table(pyarrow.Table.from_pylist(rows), sink, **options)
    return sink.getvalue().to_pybytes()


def test_a_column_named_twice_is_refused():
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    sink = pyarrow.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(readers.Broken, match="the header names the column 'text' 2 times: rename all but one"):
        list(readers._parquet_rows("text", io.BytesIO(sink.getvalue().to_pybytes()), 0))
    with pytest.raises(readers.Broken, match="the header names the column 'text' 2 times: rename all but one"):
        list(readers._csv_rows(io.StringIO("text,id,text\na,1,b\n"), ","))


MARK = "\ufeff".encode()


@pytest.mark.parametrize("sample_by", SampleBy)
def test_a_byte_order_mark_is_no_text(read, sample_by):
    files = {f"{i}.txt": MARK + text.encode() for i, text in enumerate(TEXTS)}
    assert read(files, "text", sample_by=sample_by) == sorted(TEXTS)


def test_a_mark_inside_a_text_stays(read):
    inside = [f"{text}\ufeffend" for text in TEXTS]
    assert read({f"{i}.txt": text.encode() for i, text in enumerate(inside)}, "text") == sorted(inside)


def test_a_long_number_in_another_field_is_not_read(read):
    content = "".join(f'{{"text": {json.dumps(text)}, "n": {"9" * 5000}}}\n' for text in TEXTS)
    assert read({"a.jsonl": content.encode()}, "jsonl") == sorted(TEXTS)


def test_a_mark_before_other_formats(read):
    assert read({"a.jsonl": MARK + lines([{"text": text} for text in TEXTS])}, "jsonl") == sorted(TEXTS)


def test_a_mark_before_a_csv_header(read):
    assert read({"a.csv": MARK + ("text\n" + "\n".join(TEXTS)).encode()}, "csv") == sorted(TEXTS)


def test_a_mark_in_a_compressed_file(read):
    files = {f"{i}.txt.gz": gzip.compress(MARK + text.encode()) for i, text in enumerate(TEXTS)}
    assert read(files, "text") == sorted(TEXTS)


def test_csv_with_quotes_breaks_and_other_columns(read):
    rows = [f'{i},"{text}, ""so"" it goes\n\nand on",x\n' for i, text in enumerate(TEXTS)]
    found = read({"a.csv": ("id,body,more\n" + "".join(rows)).encode()}, "csv", text_key="body")
    assert found == sorted(f'{text}, "so" it goes\n\nand on' for text in TEXTS)


def test_csv_with_windows_line_ends_and_blank_lines(read):
    content = "text,n\r\n\r\n" + "".join(f"{text},1\r\n\r\n" for text in TEXTS)
    assert read({"a.csv": content.encode()}, "csv") == sorted(TEXTS)


def test_tsv_and_compressed_csv(read):
    tabs = "n\ttext\n" + "".join(f"1\t{text}\n" for text in TEXTS[:20])
    commas = "text,n\n" + "".join(f"{text},1\n" for text in TEXTS[20:])
    assert read({"a.TSV": tabs.encode(), "B.CSV.GZ": gzip.compress(commas.encode())}, "csv") == sorted(TEXTS)


def test_csv_with_a_field_beyond_the_librarys_limit(read):
    long = "word " * 100_000
    assert long in read({"a.csv": ("text\n" + "\n".join([*TEXTS, long])).encode()}, "csv")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_nested_keys(read, suffix):
    rows = [{"id": i, "meta": {"text": text, "lang": "en", "deep": {"text": "other"}}} for i, text in enumerate(TEXTS)]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    assert read({f"a.{suffix}": content}, suffix, text_key="meta.text") == sorted(TEXTS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_deeper_keys_and_a_name_with_a_dot(read, suffix):
    rows = [{"a.b": {"c": {"d": text}}, "a": {"b": {"c": {"d": "other"}}}} for text in TEXTS]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    assert read({f"a.{suffix}": content}, suffix, text_key="a.b.c.d") == sorted(TEXTS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_key_with_a_dot_in_its_name(read, suffix):
    rows = [{"meta.text": text, "meta": {"text": "other"}} for text in TEXTS]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    assert read({f"a.{suffix}": content}, suffix, text_key="meta.text") == sorted(TEXTS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_list_of_strings_is_joined_by_blank_lines(read, suffix):
    rows = [{"text": [text, None, "second"]} for text in TEXTS]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    assert read({f"a.{suffix}": content}, suffix) == sorted(f"{text}\n\nsecond" for text in TEXTS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_contents_of_chat_messages(read, suffix):
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]} for text in TEXTS
    ]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    found = read({f"a.{suffix}": content}, suffix, text_key="messages.content")
    assert found == sorted(f"{text}\n\nYes." for text in TEXTS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_messages_without_a_field_name_the_cure(read, suffix):
    rows = [{"messages": [{"role": "user", "content": text}]} for text in TEXTS]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    wanted = r"'messages' holds objects, not text: set data.text_key to one of messages.role, messages.content"
    with pytest.raises(SprigError, match=wanted):
        read({f"a.{suffix}": content}, suffix, text_key="messages")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_nested_key_that_is_missing_names_what_is_there(read, suffix):
    rows = [{"meta": {"lang": "en", "body": text}} for text in TEXTS]
    content = lines(rows) if suffix == "jsonl" else parquet(rows)
    with pytest.raises(SprigError, match=r"no column 'meta.text' in .*set data.text_key to one of meta.lang, meta.bod"):
        read({f"a.{suffix}": content}, suffix, text_key="meta.text")


def test_json_lines_of_strings(read):
    assert read({"a.jsonl": lines(TEXTS)}, "jsonl") == sorted(TEXTS)


def test_json_lines_of_lists_of_strings(read):
    assert read({"a.jsonl": lines([[text, "second"] for text in TEXTS])}, "jsonl") == sorted(
        f"{text}\n\nsecond" for text in TEXTS
    )


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: {"text": text, "n": 1}])
def test_one_json_array(read, indent, wrap):
    content = json.dumps([wrap(text) for text in TEXTS], indent=indent).encode()
    assert read({"a.jsonl": content}, "jsonl") == sorted(TEXTS)


def test_json_lines_with_blank_lines_and_windows_line_ends(read):
    content = lines([{"text": text} for text in TEXTS]).replace(b"\n", b"\r\n\r\n \r\n")
    assert read({"a.jsonl": b"\n\n" + content}, "jsonl") == sorted(TEXTS)


def test_unusual_line_ends_inside_a_text_split_no_line(read):
    unusual = [f"{text}\u2028\x0b\x1c\x85end" for text in TEXTS]
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in unusual)
    assert read({"a.jsonl": content.encode()}, "jsonl") == sorted(unusual)


def test_rows_that_lack_the_text_are_blank(read):
    rows = [{"text": text} if i % 3 else {"other": 1} for i, text in enumerate(TEXTS)]
    assert read({"a.jsonl": lines(rows)}, "jsonl") == sorted(text for i, text in enumerate(TEXTS) if i % 3)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 100_000}])
def test_files_whose_other_columns_differ(read, suffix, limit):
    parts = [
        [{"text": text, "score": None} for text in TEXTS[:10]],
        [{"text": text, "score": "high"} for text in TEXTS[10:20]],
        [{"text": text, "score": 1.5, "more": {"x": [1]}} for text in TEXTS[20:30]],
        [{"more": ["y"], "text": text} for text in TEXTS[30:]],
    ]
    write = lines if suffix == "jsonl" else parquet
    files = {f"{i}.{suffix}": write(rows) for i, rows in enumerate(parts)}
    assert read(files, suffix, **limit) == sorted(TEXTS)


def test_one_file_without_the_column_is_named(read):
    files = {"0.jsonl": lines([{"text": text} for text in TEXTS]), "1.jsonl": lines([{"body": "x"}] * 100)}
    with pytest.raises(SprigError, match=r"no column 'text' in .*/1.jsonl: set data.text_key to one of body\."):
        read(files, "jsonl")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_without_text_are_counted(read, suffix, caplog):
    others = [{"text": None, "n": 1}] * 3 + [{"text": "", "n": 2}, {"text": " \n", "n": 2}]
    others += [{"n": 3}] * 4 if suffix == "jsonl" else []
    write = lines if suffix == "jsonl" else parquet
    assert read({f"a.{suffix}": write([{"text": text} for text in TEXTS] + others)}, suffix) == sorted(TEXTS)
    count = "9 of 49" if suffix == "jsonl" else "5 of 45"
    assert f"Data test: {count} rows have no text in column 'text' and are left out." in caplog.messages


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()])
def test_kinds_of_strings_in_parquet(read, kind):
    sink = pyarrow.BufferOutputStream()
    pq.write_table(pyarrow.table({"text": pyarrow.array(TEXTS, kind)}), sink)
    assert read({"a.parquet": sink.getvalue().to_pybytes()}, "parquet") == sorted(TEXTS)


def test_a_dictionary_column_in_parquet(read):
    sink = pyarrow.BufferOutputStream()
    pq.write_table(pyarrow.table({"text": pyarrow.array(TEXTS).dictionary_encode()}), sink)
    assert read({"a.parquet": sink.getvalue().to_pybytes()}, "parquet") == sorted(TEXTS)


def test_a_parquet_file_without_rows_adds_nothing(read):
    empty = pyarrow.BufferOutputStream()
    pq.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), empty)
    files = {"0.parquet": empty.getvalue().to_pybytes(), "1.parquet": parquet([{"text": text} for text in TEXTS])}
    assert read(files, "parquet") == sorted(TEXTS)


def test_parquet_without_any_rows_has_no_text(read):
    empty = pyarrow.BufferOutputStream()
    pq.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), empty)
    with pytest.raises(SprigError, match="Data test has no text"):
        read({"0.parquet": empty.getvalue().to_pybytes()}, "parquet")


def test_bytes_in_parquet_are_not_text(read):
    with pytest.raises(SprigError, match=r"row 1: column 'text' holds bytes, not text: correct the file or data.text"):
        read({"a.parquet": parquet([{"text": b"words", "body": "x"}] * 9)}, "parquet")


@pytest.mark.parametrize("place", [0, 1, 70, 999])
def test_a_broken_line_is_named(read, place):
    rows = [json.dumps({"text": f"words {i}"}) for i in range(1000)]
    rows[place] = '{"text": "cut'
    good = lines([{"text": text} for text in TEXTS])
    with pytest.raises(SprigError, match=rf"/b.jsonl, line {place + 1} is not JSON \(.*: correct the file"):
        read({"a.jsonl": good, "b.jsonl": "\n".join(rows).encode(), "c.jsonl": good}, "jsonl")


@pytest.mark.parametrize(
    "row, wanted",
    [
        ('{"text": "a"} {"text": "b"}', r"line 2 is not JSON \(Extra data"),
        ("[" * 100_000, "line 2 (is nested too deeply|is not JSON)"),
        ('{"text": ' + "9" * 5000 + "}", "row 2: column 'text' holds int"),
        ('{"text": "\\ud83d"}', "row 2 holds half a surrogate pair"),
        ('{"text": 5}', "row 2: column 'text' holds int"),
        ("true", "row 2 holds bool, not text or an object"),
    ],
)
def test_other_rows_that_are_refused(read, row, wanted):
    with pytest.raises(SprigError, match=f"/a.jsonl, {wanted}"):
        read({"a.jsonl": f'{{"text": "good"}}\n{row}\n'.encode()}, "jsonl")


def test_a_json_object_over_several_lines_is_refused(read):
    with pytest.raises(SprigError, match=r"a.jsonl, line 1 is not JSON \(.*each line holds one value"):
        read({"a.jsonl": json.dumps({"text": "words"}, indent=2).encode()}, "jsonl")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(read, share):
    content = parquet([{"text": text} for text in TEXTS])
    files = {"a.parquet": content, "b.parquet": content[: int(share * len(content))]}
    with pytest.raises(SprigError, match=r"/b.parquet cannot be read as parquet .*truncated or damaged"):
        read(files, "parquet")


def test_a_damaged_parquet_page_is_named(read):
    rows = [{"text": os.urandom(200).hex()} for _ in range(99)]
    content = bytearray(parquet(rows, compression="gzip", use_dictionary=False))
    content[5000:9000] = bytes(4000)
    with pytest.raises(SprigError, match=r"/b.parquet cannot be read as parquet"):
        read({"b.parquet": bytes(content)}, "parquet")


@pytest.mark.parametrize(
    "content, wanted",
    [
        ('text,n\nfirst,1\n"never closed,2\nmore,3\n', r"line 3 is not CSV \(unexpected end of data\)"),
        ("text,n\nfirst,1\nsecond,2,3\n", "line 3 has 3 fields, and the header 2"),
        ("text,n\nfirst\n", "line 2 has 1 fields, and the header 2"),
    ],
)
def test_broken_csv_is_named(read, content, wanted):
    with pytest.raises(SprigError, match=f"/a.csv, {wanted}"):
        read({"a.csv": content.encode()}, "csv")


@pytest.mark.parametrize("suffix, other", [("csv", ";"), ("csv", "\t"), ("csv", "|"), ("tsv", ","), ("tsv", ";")])
def test_another_separator_is_named(read, suffix, other):
    own = "\t" if suffix == "tsv" else ","
    with pytest.raises(SprigError) as caught:
        read({f"a.{suffix}": f"id{other}text\n1{other}words, more words\n".encode()}, "csv")
    assert f"/a.{suffix}, the header seems separated by {other!r} instead of {own!r}" in str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_of_many_columns_the_first_are_named(read, suffix, nested):
    row = dict.fromkeys(["n" * 5000, *(f"column {number}" for number in range(400))], "words")
    if suffix == "csv":
        content = f"{','.join(row)}\n{','.join(row.values())}\n".encode()
    else:
        content = (lines if suffix == "jsonl" else parquet)([{"meta": row} if nested else row] * 9)
    with pytest.raises(SprigError) as caught:
        read({f"a.{suffix}": content}, suffix, text_key="meta.text" if nested else "text")
    assert "column 10 and 389 more." in str(caught.value) and len(str(caught.value)) < 500


def test_csv_without_the_column(read):
    with pytest.raises(SprigError, match=r"no column 'text' in .*/a.csv: set data.text_key to one of body, n"):
        read({"a.csv": b"body,n\nwords,1\n"}, "csv")


@pytest.mark.parametrize("encoding, byte", [("utf-16-le", 66), ("utf-16", 0), ("utf-32", 0)])
def test_other_encodings_are_refused_with_the_byte(read, encoding, byte):
    content = ("a" * 33 + "\u20ac\u0180").encode(encoding)
    with pytest.raises(SprigError, match=rf"/a.txt is not UTF-8 \(byte {byte}\): convert it to UTF-8"):
        read({"a.txt": content}, "text")


def test_the_byte_is_of_the_decompressed_text(read):
    content = gzip.compress(b"a" * 3_000_000 + "é".encode("latin-1") + b"b" * 99)
    with pytest.raises(SprigError, match=r"/a.txt.gz is not UTF-8 \(byte 3,000,000\)"):
        read({"a.txt.gz": content}, "text")


@pytest.mark.parametrize("source, sample_by", [("text", "line"), ("text", "paragraph"), ("jsonl", "document")])
@pytest.mark.parametrize("skip", [0, 1, 63, 64, 130, 299, 300])
def test_rows_from_any_place_on(tmp_path, source, sample_by, skip):
    wanted = [f"row {i}" for i in range(300)]
    joined = {"line": "\n", "paragraph": "\n\n"}.get(sample_by)
    path = tmp_path / f"a.{source}"
    path.write_bytes(joined.join(wanted).encode() if joined else lines(wanted))
    data = config(path, source, sample_by=SampleBy(sample_by))
    with path.open("rb") as file:
        assert list(readers.rows(data, path, file, skip)) == wanted[skip:]


@pytest.mark.parametrize("skip", [0, 1, 39, 40, 41, 250, 299, 300])
def test_parquet_rows_from_any_place_on(tmp_path, skip):
    wanted = [{"text": f"row {i}"} for i in range(300)]
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([row | {"n": i} for i, row in enumerate(wanted)], row_group_size=40))
    with path.open("rb") as file:
        assert list(readers.rows(config(path, "parquet"), path, file, skip)) == wanted[skip:]


def test_a_folder_is_searched_for_its_source_alone(tmp_path):
    for name in ("a.txt", "b.md.gz", "c.jsonl", "d.jsonl.zst", "e.CSV", "f.tsv", "g.parquet", "h.json", "i.gz"):
        (tmp_path / name).write_bytes(b"")
    found = {
        source: [name for name, _ in local_files(config(Path(tmp_path), source)).files]
        for source in ("text", "jsonl", "csv", "parquet")
    }
    assert found == {
        "text": ["a.txt", "b.md.gz"],
        "jsonl": ["c.jsonl", "d.jsonl.zst"],
        "csv": ["e.CSV", "f.tsv"],
        "parquet": ["g.parquet"],
    }
