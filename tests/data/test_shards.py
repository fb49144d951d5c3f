"""A preparation that is killed resumes: what is finished stays, and the result is the same to the byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import killed
import numpy as np
import psutil
import pyarrow
import pyarrow.parquet as pq
import pytest
from covering import grid
from prepared import END, config, documents, made

from pipeline.config import DataConfig
from pipeline.data import documents as reading
from pipeline.data import hub, packing, prepare, shards
from pipeline.errors import SprigError
from pipeline.models.tokenizer import Tokenizer

TEXTS = [f"Document {i:03}: " + "wörds, " * (8 + i % 5) for i in range(400)]


def write(path: Path, texts: list[str] = TEXTS) -> Path:
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", killed.SHARD)
    monkeypatch.setattr(packing, "GROUP", 3)
    for module in (reading, hub):
        monkeypatch.setattr(module, "BATCH", killed.BATCH)


@pytest.fixture
def uninterrupted(tokenizer, tmp_path) -> dict[str, bytes]:
    """In one shard, as the defaults cut it."""
    made(config(write(tmp_path / "a.jsonl"), "jsonl"), tokenizer, tmp_path / "expected")
    return contents(tmp_path / "expected")


@pytest.mark.slow
def test_a_killed_tokenisation_resumes(tokenizer, tmp_path, uninterrupted):
    """SIGKILL in the middle: no finished shard is encoded again, the workers end, the files are the same."""
    folder, record = tmp_path / "out", tmp_path / "record"
    folder.mkdir()
    command = [sys.executable, killed.__file__, tokenizer.path, tmp_path / "a.jsonl", record, folder]
    process = subprocess.Popen([*command, "0.1"])
    until = time.monotonic() + 90
    while len(list(folder.glob("shards/*.npz"))) < 8:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    workers = {int(line.split()[0]) for line in record.read_text().splitlines()} - {process.pid}
    assert len(workers) == 2
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)
    finished = set(folder.glob("shards/0*.npz"))
    ids = [np.load(path)["ids"] for path in finished]
    there = {text.decode() for each in ids for text in documents(each[:-1])}
    assert 0 < len(there) < len(TEXTS) and not (folder / "index.json").exists()

    record.rename(tmp_path / "before")
    subprocess.run([*command, "0"], check=True, timeout=90)
    again = [line.split(" ", 1)[1] for line in record.read_text().splitlines()]
    assert Counter(again) == Counter(text for text in TEXTS if text not in there)
    assert contents(folder) == uninterrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_are_cut_alike_and_are_gone_at_the_end(tokenizer, tmp_path, uninterrupted, small, workers):
    made(config(tmp_path / "a.jsonl", "jsonl", workers=workers), tokenizer, tmp_path / "out")
    assert contents(tmp_path / "out") == uninterrupted


class Failing:
    """Raises at the `at`-th call of a function, as an end of the process would, and passes the others on."""

    def __init__(self, function, at: int, after: bool):
        self.function, self.at, self.after, self.calls = function, at, after, 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise KeyboardInterrupt
        result = self.function(*arguments, **named)
        if self.calls == self.at:
            raise KeyboardInterrupt
        return result


def interrupted(failing: Failing, module: ModuleType, data: DataConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """A preparation that ends where the function of this module fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, failing.function.__name__, failing)
        with pytest.raises(KeyboardInterrupt):
            made(data, tokenizer, folder)


def recording(tokenizer: Tokenizer, tmp_path: Path) -> tuple[Tokenizer, Path]:
    record = tmp_path / "record"
    return killed.Recording(tokenizer.path, record, 0), record


ENDS = ["pipeline.data.packing.write_json", "pathlib.Path.unlink", "os.fsync", "os.truncate"]


@pytest.mark.parametrize(("name", "at", "after"), grid(ENDS, [1, 2, 4], [False, True], times=2))
def test_packing_that_ends_anywhere_resumes(tokenizer, tmp_path, uninterrupted, small, monkeypatch, name, at, after):
    tokenizer, record = recording(tokenizer, tmp_path)
    data, folder = config(tmp_path / "a.jsonl", "jsonl"), tmp_path / "out"
    real, packed = packing.pack, []

    def pack(*arguments):
        packed.append(arguments)
        with pytest.MonkeyPatch.context() as patch:
            if len(packed) == 1:
                found = {"pathlib.Path.unlink": Path.unlink, "os.fsync": os.fsync, "os.truncate": os.truncate}
                failing = Failing(found.get(name, packing.write_json), at, after)
                patch.setattr(name, lambda *given, **named: failing(*given, **named))
            return real(*arguments)

    monkeypatch.setattr(prepare, "pack", pack)
    if (name, at) == ("os.truncate", 4):  # it is called once a split
        at = 3
    with pytest.raises(KeyboardInterrupt):
        made(data, tokenizer, folder)
    record.rename(tmp_path / "before")
    made(data, tokenizer, folder)
    assert contents(folder) == uninterrupted
    assert not record.exists()  # nothing was encoded again


def test_an_end_after_the_index_leaves_no_shards(tokenizer, tmp_path, uninterrupted, small, monkeypatch):
    tokenizer, record = recording(tokenizer, tmp_path)
    folder = tmp_path / "out"
    interrupted(
        Failing(prepare.write_json, 1, after=True), prepare, config(tmp_path / "a.jsonl", "jsonl"), tokenizer, folder
    )
    assert (folder / "shards").exists()
    record.unlink()
    made(config(tmp_path / "a.jsonl", "jsonl"), tokenizer, folder)
    assert contents(folder) == uninterrupted and not record.exists()


@pytest.mark.parametrize("lost", [[0], [5], [3, 4, 9], [2, -1]])
def test_a_shard_that_is_missing_between_others_is_made_alone(
    tokenizer, tmp_path, uninterrupted, small, monkeypatch, lost
):
    tokenizer, record = recording(tokenizer, tmp_path)
    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl")
    interrupted(Failing(prepare.pack, 1, after=False), prepare, data, tokenizer, folder)
    (folder / "shards" / packing.MEMBERS).unlink()
    there = sorted(folder.glob("shards/0*.npz"))
    assert len(there) > 20
    gone = []
    for number in lost:
        gone += documents(np.load(there[number])["ids"][:-1])
        there[number].unlink()
    record.unlink()
    made(data, tokenizer, folder)
    assert [line.split(" ", 1)[1].encode() for line in record.read_text().splitlines()] == gone
    assert contents(folder) == uninterrupted


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]
    return {"empty": b"", "half": content[:middle], "garbage": b"text\n", "one byte": flipped}[how]


HOW = ["empty", "half", "garbage", "one byte"]


@pytest.mark.parametrize(("name", "how"), grid(["000000.npz", "000005.npz", packing.MEMBERS], HOW))
def test_what_is_damaged_before_packing_is_made_again(tokenizer, tmp_path, uninterrupted, small, caplog, name, how):
    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl")
    interrupted(Failing(prepare.pack, 1, after=False), prepare, data, tokenizer, folder)
    path = folder / "shards" / name
    path.write_bytes(damaged(path.read_bytes(), how))
    for decided in (True, False):  # while the shards are packed, and while they are still made
        shutil.copytree(folder, tmp_path / f"{decided}")
        if not decided:
            (tmp_path / f"{decided}" / "shards" / packing.MEMBERS).unlink()
        made(data, tokenizer, tmp_path / f"{decided}")
        assert contents(tmp_path / f"{decided}") == uninterrupted
    assert f"{name} was damaged (" in caplog.text


@pytest.mark.parametrize("name", [packing.PACKED, packing.MEMBERS, "000007.npz", "../train.bin"])
@pytest.mark.parametrize("how", HOW)
def test_what_is_damaged_while_packing_is_made_again(tokenizer, tmp_path, uninterrupted, small, caplog, name, how):
    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl")
    interrupted(Failing(packing.write_json, 2, after=True), packing, data, tokenizer, folder)
    path = folder / "shards" / name
    path.write_bytes(damaged(path.read_bytes(), how))
    made(data, tokenizer, folder)
    assert contents(folder) == uninterrupted
    assert " was damaged (" in caplog.text


@pytest.mark.parametrize("key", ["shards", "documents"])
def test_another_number_in_the_note_of_packing_is_found(tokenizer, tmp_path, uninterrupted, small, caplog, key):
    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl")
    interrupted(Failing(packing.write_json, 2, after=True), packing, data, tokenizer, folder)
    path = folder / "shards" / packing.PACKED
    packed = json.loads(path.read_text())
    path.write_text(json.dumps(packed | {key: packed[key] - 1}))
    made(data, tokenizer, folder)
    assert contents(folder) == uninterrupted
    assert "packed.json was damaged (it was changed)" in caplog.text


def test_a_packing_of_an_earlier_version_resumes(tokenizer, tmp_path, uninterrupted, small):
    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl")
    interrupted(Failing(packing.write_json, 2, after=True), packing, data, tokenizer, folder)
    packed = json.loads((folder / "shards" / packing.PACKED).read_text())
    del packed["crc32"], packed["digest"]
    (folder / "shards" / packing.PACKED).write_text(json.dumps(packed))
    made(data, tokenizer, folder)
    assert contents(folder) == uninterrupted


def test_shards_of_another_cut_are_made_again(tokenizer, tmp_path, uninterrupted, small, monkeypatch):
    """Whatever lies there, the shards that are used follow one another."""
    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl")
    interrupted(Failing(prepare.pack, 1, after=False), prepare, data, tokenizer, folder)
    (folder / "shards" / packing.MEMBERS).unlink()
    (folder / "shards" / "000002.npz").unlink()
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 2 * killed.SHARD)
    made(data, tokenizer, folder)
    assert contents(folder) == uninterrupted


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_is_read_than_max_tokens_needs(tokenizer, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", killed.SHARD)
    data = config(write(tmp_path / "a.jsonl", TEXTS * 30), "jsonl", max_tokens=6000, workers=workers)
    read = []
    real = reading.LocalDocuments.read
    monkeypatch.setattr(
        reading.LocalDocuments, "read", lambda self, place=None: (read.append(len(b)) or b for b in real(self, place))
    )
    splits = made(data, tokenizer, tmp_path / "out")
    tokens = sum(len(each) + 1 for each in splits.values())
    assert 6000 <= tokens < 6000 + 120
    assert sum(read) < 64 * 10  # of 12,000 documents of about 90 tokens


def test_one_copy_of_the_tokens_on_disk(tokenizer, tmp_path, monkeypatch):
    """While they are packed, the files grow as the shards go."""
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 4 * killed.SHARD)
    monkeypatch.setattr(packing, "GROUP", 1)
    folder, sizes = tmp_path / "out", []
    real = packing.write_json

    def write_json(path, value):
        real(path, value)
        sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))

    monkeypatch.setattr(packing, "write_json", write_json)
    made(config(write(tmp_path / "a.jsonl", TEXTS * 20), "jsonl"), tokenizer, folder)
    tokens = sum((folder / f"{name}.bin").stat().st_size for name in packing.SPLITS)
    assert len(sizes) > 50
    assert max(sizes) < 1.35 * tokens  # lengths and hashes of documents of 90 tokens are a sixth of them


def test_a_worker_that_dies_is_reported_and_the_shards_stay(tokenizer, tmp_path, uninterrupted, small):
    class Deadly(Tokenizer):
        def encode_batch(self, texts, special_tokens=False):
            if any(text.startswith("Document 200") for text in texts):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode_batch(texts, special_tokens)

    folder, data = tmp_path / "out", config(tmp_path / "a.jsonl", "jsonl", workers=2)
    with pytest.raises(SprigError, match=r"tokenises died: is there memory for data.workers=2\? The same command"):
        made(data, Deadly(tokenizer.path), folder)
    assert len(list(folder.glob("shards/0*.npz"))) >= 5
    made(data, tokenizer, folder)
    assert contents(folder) == uninterrupted


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kill_at", [1, 7])
def test_a_data_set_of_the_hub_resumes_where_it_was(tokenizer, tmp_path, small, monkeypatch, streaming, kill_at):
    """`datasets` reads local files in the hub's place."""
    table = pyarrow.Table.from_pylist([{"meta": {"text": text}, "n": i} for i, text in enumerate(TEXTS)])
    files = [str(tmp_path / f"{i}.parquet") for i in range(2)]
    for i, file in enumerate(files):
        pq.write_table(table.slice(200 * i, 200), file, row_group_size=37)
    load = hub.datasets.load_dataset
    monkeypatch.setattr(
        hub.datasets,
        "load_dataset",
        lambda path, name, split, revision, **given: load("parquet", data_files=files, split=split, **given),
    )
    limit = {"max_tokens": 10**6, "streaming": True} if streaming else {}
    data = config("org/name@main", "hub", text_key="meta.text", **limit)
    tokenizer, record = recording(tokenizer, tmp_path)
    interrupted(Failing(shards.write_arrays, kill_at, after=True), shards, data, tokenizer, tmp_path / "out")
    encoded = record.read_text().splitlines()
    splits = made(data, tokenizer, tmp_path / "out")
    assert len(record.read_text().splitlines()) == len(TEXTS) and len(encoded) < len(TEXTS)
    expected = made(config(write(tmp_path / "a.jsonl"), "jsonl"), tokenizer, tmp_path / "plain")
    assert {name: tokens.tolist() for name, tokens in splits.items()} == {
        name: tokens.tolist() for name, tokens in expected.items()
    }
    assert sorted(contents(tmp_path / "out")) == ["calibration.bin", "index.json", "train.bin", "validation.bin"]


SPELLED = [f"{text}<|endoftext|>and on" for text in TEXTS[:60]]


def test_a_special_token_that_is_spelled_out_stays_text(tokenizer, tmp_path):
    splits = made(config(write(tmp_path / "a.jsonl", SPELLED), "jsonl"), tokenizer, tmp_path / "out")
    found = sorted(text.decode() for tokens in splits.values() for text in documents(tokens))
    assert found == sorted(SPELLED)
    assert sum((tokens == END).sum() for tokens in splits.values()) == 60 - 3


def test_a_special_token_is_itself_if_that_is_wanted(tokenizer, tmp_path):
    data = config(write(tmp_path / "a.jsonl", SPELLED), "jsonl", special_tokens=True)
    splits = made(data, tokenizer, tmp_path / "out")
    assert sum((tokens == END).sum() for tokens in splits.values()) == 2 * 60 - 3
    halves = [half for text in SPELLED for half in text.split("<|endoftext|>")]
    assert sorted(text.decode() for tokens in splits.values() for text in documents(tokens)) == sorted(halves)
    plain = prepare.identify(config(tmp_path / "a.jsonl", "jsonl"))
    assert prepare.identify(data) == plain | {"special_tokens": True}
    assert "special_tokens" not in plain
