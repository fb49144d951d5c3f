"""A file of records: what is written is read, and nothing else ever is."""

import errno
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from pipeline.artifacts.records import Damaged, Records

SIZE, KEY = 100, "0123456789abcdef"


def record(number: int) -> bytes:
    return bytes([number % 251 + 1]) * SIZE


def opened(folder, key=KEY, writable=True) -> Records:
    return Records(folder / "records.bin", SIZE, key, writable)


@pytest.fixture
def records(tmp_path) -> Records:
    made = opened(tmp_path)
    for number in (7, 0, 3):
        made.write(number, record(number))
    return made


def test_what_is_written_is_read(records, tmp_path):
    for each in (records, opened(tmp_path, writable=False)):
        assert [each.read(number) for number in (0, 3, 7)] == [record(0), record(3), record(7)]
        assert [each.read(number) for number in (1, 6, 8, 10**9)] == [None] * 4


def test_every_flipped_byte_is_damage(records, tmp_path):
    path = tmp_path / "records.bin"
    whole = path.read_bytes()
    length = len(whole) // 8
    for place in range(3 * length, 4 * length):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            opened(tmp_path).read(3)
        assert opened(tmp_path).read(7) == record(7)


def test_a_record_of_another_place_or_file_is_damage(records, tmp_path):
    path = tmp_path / "records.bin"
    whole = path.read_bytes()
    length = len(whole) // 8
    path.write_bytes(whole[:length] + whole[3 * length : 4 * length] + whole[2 * length :])
    with pytest.raises(Damaged):
        records.read(1)
    with pytest.raises(Damaged):
        opened(tmp_path, key="another").read(3)


def test_a_torn_record_is_damage_and_is_written_again(records, tmp_path):
    path = tmp_path / "records.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Damaged):
        records.read(7)
    records.write(7, record(7))
    assert records.read(7) == record(7)


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_leaves_what_was_written(records, monkeypatch, tmp_path, short):
    """A system that is out of space refuses the call, or takes a part of it."""
    write = os.pwrite

    def full(file, data, place):
        if short:
            return write(file, data[: len(data) // 2], place)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError) as raised:
        patched.setattr(os, "pwrite", full)
        records.write(5, record(5))
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "records.bin")
    assert [records.read(number) for number in (0, 3, 7)] == [record(0), record(3), record(7)]
    records.write(5, record(5))
    assert records.read(5) == record(5)


def _write_all(folder, numbers):
    records = opened(folder)
    for number in numbers:
        records.write(number, record(number))


def test_processes_write_at_once(tmp_path):
    """Shares that overlap: both then write the same bytes."""
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        shares = [range(0, 200), range(150, 400), range(399, -1, -3)]
        list(pool.map(_write_all, [tmp_path] * 3, shares))
    records = opened(tmp_path, writable=False)
    assert [records.read(number) for number in range(400)] == [record(number) for number in range(400)]
