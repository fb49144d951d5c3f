"""Records of several writers: what is written is read, and nothing else ever is."""

import errno
import os
import signal
from multiprocessing import get_context

import numpy as np
import pytest

from pipeline.artifacts.records import Damaged, Records, Writer

SIZE, KEY = 100, "0123456789abcdef"
WHOLE = 16 + 8 + SIZE  # with checksum and number


def record(number: int) -> bytes:
    return bytes([number % 251 + 1]) * SIZE


def write(folder, writer, numbers, key=KEY) -> None:
    with Writer(folder, writer, SIZE, key) as file:
        for number in numbers:
            file.write(number, record(number))


def opened(folder, key=KEY) -> Records:
    return Records(folder, SIZE, key)


def missing(folder, count) -> list[int]:
    return opened(folder).missing(np.arange(count)).tolist()


def readable(folder, count) -> list[int]:
    """The numbers whose records are what was written; no other is given."""
    records, found = opened(folder), []
    for number in range(count):
        if (content := records.read(number)) is not None:
            assert content == record(number)
            found.append(number)
    return found


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "records", "0", [7, 0])
    write(tmp_path / "records", "1", [3])
    return tmp_path / "records"


def test_what_is_written_is_read(folder):
    assert readable(folder, 20) == [0, 3, 7]
    assert opened(folder).read(10**9) is None
    assert opened(folder).missing(np.array([7, 8, 3, 10**9])).tolist() == [8, 10**9]
    assert missing(folder.parent / "none", 3) == [0, 1, 2]


def test_what_is_there_is_known_without_reading_it(folder, monkeypatch):
    monkeypatch.setattr(os, "pread", lambda *_: 1 / 0)
    assert missing(folder, 9) == [1, 2, 4, 5, 6, 8]


def test_every_flipped_byte_is_damage_and_the_record_is_missing_from_then_on(folder):
    path, listed = folder / "0.bin", (folder / "0.numbers").read_bytes()
    good = path.read_bytes()
    for place in range(WHOLE, 2 * WHOLE):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        (folder / "0.numbers").write_bytes(listed)
        records = opened(folder)
        with pytest.raises(Damaged):
            records.read(0)
        assert records.read(0) is None and records.read(7) == record(7)
    assert missing(folder, 9) == [0, 1, 2, 4, 5, 6, 8]
    write(folder, "1", [0])
    assert readable(folder, 9) == [0, 3, 7] and opened(folder).damaged() == ([], 3)


def test_all_damaged_records_are_found(folder):
    path = folder / "0.bin"
    path.write_bytes(bytes(WHOLE) + path.read_bytes()[WHOLE:])
    assert opened(folder).damaged() == ([7], 3)
    assert opened(folder).damaged() == ([], 2)


def test_a_record_of_another_place_or_key_is_damage(folder):
    path = folder / "0.bin"
    good = path.read_bytes()
    path.write_bytes(good[WHOLE:] + good[:WHOLE])
    with pytest.raises(Damaged):
        opened(folder).read(7)
    with pytest.raises(Damaged):
        opened(folder, key="another").read(3)


@pytest.mark.parametrize("cut", [1, 10, WHOLE - 1, WHOLE])
def test_a_record_that_is_cut_off_is_missing_and_is_written_again(folder, cut):
    path = folder / "0.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    assert readable(folder, 9) == [3, 7] and missing(folder, 4) == [0, 1, 2]
    write(folder, "0", [0, 5])
    assert readable(folder, 9) == [0, 3, 5, 7]
    assert path.stat().st_size == 3 * WHOLE


@pytest.mark.parametrize("listed", [b"garbage, " * 9, bytes([1]) * 16, b"\xfe" + b"\xff" * 7, b"\0" * 7 + b"\x40"])
def test_a_list_that_is_damaged_is_made_from_the_records(folder, listed):
    (folder / "0.numbers").write_bytes(listed)
    assert missing(folder, 9) == [1, 2, 4, 5, 6, 8] and readable(folder, 9) == [0, 3, 7]
    write(folder, "0", [5])
    assert np.fromfile(folder / "0.numbers", "<i8").tolist() == [7, 0, 5]


def test_large_numbers_are_numbers(folder):
    write(folder, "0", [1 << 25])
    assert opened(folder).read(1 << 25) == record(1 << 25)


@pytest.mark.parametrize("left", [0, 8, 12])
def test_a_list_that_is_lost_is_made_from_the_records(folder, left):
    listed = folder / "0.numbers"
    listed.write_bytes(listed.read_bytes()[:left])
    assert missing(folder, 9) == [1, 2, 4, 5, 6, 8]
    write(folder, "0", [5])
    assert np.fromfile(listed, "<i8").tolist() == [7, 0, 5]
    listed.unlink()
    assert readable(folder, 9) == [0, 3, 5, 7]


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_leaves_what_was_written(folder, monkeypatch, short, fails_at):
    """A system that is out of space refuses the call, or takes a part of it; for a record, or for the list."""
    pwrite, calls = os.pwrite, []

    def full(file, data, place):
        calls.append(place)
        if len(calls) < fails_at:
            return pwrite(file, data, place)
        if short:
            return pwrite(file, data[: len(data) // 2], place)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Writer(folder, "0", SIZE, KEY) as writer:
        with monkeypatch.context() as patched, pytest.raises(OSError) as raised:
            patched.setattr(os, "pwrite", full)
            writer.write(5, record(5))
        assert raised.value.errno == errno.ENOSPC
        assert raised.value.filename == str(folder / ("0.bin" if fails_at == 1 else "0.numbers"))
        assert set(readable(folder, 9)) - {5} == {0, 3, 7}
        writer.write(6, record(6))
    assert readable(folder, 9) == [0, 3, 6, 7]


def _write_until_killed(folder, numbers, kill_at: int, half: bool) -> None:
    pwrite, calls = os.pwrite, []

    def killing(file, data, place):
        calls.append(place)
        if len(calls) < kill_at:
            return pwrite(file, data, place)
        if half:
            pwrite(file, data[: len(data) // 2], place)
        os.kill(os.getpid(), signal.SIGKILL)

    os.pwrite = killing
    write(folder, "0", numbers)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kill_at", [2, 3, 100, 101])
def test_a_writer_that_is_killed_loses_one_record_at_most(tmp_path, kill_at, half):
    """Two processes write at once, and one is killed: in a record, or between it and its place in the list (the first
    call writes the empty list, and then every second one a record)."""
    folder, fork = tmp_path / "records", get_context("fork")
    shares = range(0, 200, 2), range(1, 200, 2)
    writers = [
        fork.Process(target=_write_until_killed, args=(folder, shares[0], kill_at, half)),
        fork.Process(target=write, args=(folder, "1", shares[1])),
    ]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    assert [process.exitcode for process in writers] == [-signal.SIGKILL, 0]
    kept = list(shares[0])[: (kill_at - 1) // 2]
    assert readable(folder, 200) == sorted([*kept, *shares[1]])
    lacking = opened(folder).missing(np.array(shares[0])).tolist()
    assert lacking == list(shares[0])[len(kept) :]
    write(folder, "0", lacking)
    assert readable(folder, 200) == list(range(200))
    assert (folder / "0.bin").stat().st_size == 100 * WHOLE, "nothing was written twice"
