"""Locks where the file system has flock, has none, or refuses; and a holder that is gone."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import Timeout

from pipeline.artifacts import Recipe, Store, is_held, locked, locks, marked
from pipeline.errors import SprigError


def without_flock(monkeypatch, code: int) -> None:
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.EOPNOTSUPP])
def test_one_at_a_time(tmp_path, monkeypatch, code):
    if code is not None:
        without_flock(monkeypatch, code)
    inside, most = [], []

    def enter() -> None:
        with locked(tmp_path / "a"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 4
    with locked(tmp_path / "a"), pytest.raises(Timeout), locked(tmp_path / "a", wait=False):
        pass


def test_the_mark_of_several_holds_off_who_wants_it_alone(tmp_path):
    place = tmp_path / "run" / "mark"
    with marked(place):
        with marked(place):
            assert is_held(place)
        assert is_held(place), "the other one still works on it"
        with pytest.raises(Timeout), locked(place, wait=False):
            pass
    assert not is_held(place)
    with locked(place, wait=False):
        pass


def test_who_waits_for_a_mark_that_is_removed_makes_another(tmp_path):
    place, began, done = tmp_path / "run" / "mark", threading.Event(), threading.Event()

    def begin() -> None:
        began.set()
        with marked(place):
            assert is_held(place)
            done.set()

    with locked(place):
        thread = threading.Thread(target=begin)
        thread.start()
        began.wait(30)
        assert not done.is_set()
        place.parent.rename(tmp_path / "removed")
    thread.join(30)
    assert done.is_set() and (tmp_path / "run" / "mark.lock").exists()


def test_a_folder_that_is_removed_before_it_is_marked_is_made_again(tmp_path, monkeypatch):
    place, make = tmp_path / "run" / "mark", Path.mkdir
    made = []

    def mkdir(path, **options):
        make(path, **options)
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with marked(place):
        assert made == [place.parent] * 2 and is_held(place)


def test_to_look_whether_a_lock_is_held_makes_no_folder_and_is_no_refusal(tmp_path):
    """As a process does which lists runs while another one removes them."""
    assert not is_held(tmp_path / "removed" / "a") and not list(tmp_path.iterdir())
    looking = threading.Event()

    def look() -> None:
        with locked(tmp_path / "a"):
            looking.set()
            time.sleep(locks._GLANCE / 4)

    thread = threading.Thread(target=look)
    thread.start()
    assert looking.wait(30)
    with locked(tmp_path / "a", wait=False):
        pass
    thread.join(30)


def test_without_flock_the_first_alone_holds_the_mark(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.ENOSYS)
    with marked(tmp_path / "a"), marked(tmp_path / "a"):
        assert is_held(tmp_path / "a")
    assert not is_held(tmp_path / "a")


HOLD = """
import errno, fcntl, os, socket, sys, time
from pathlib import Path
def fail(*_):
    raise OSError(errno.ENOSYS, "none")
fcntl.flock = fail
socket.gethostname = lambda: "another-node"
from pipeline.artifacts import locked, locks
locks.LEASE_SECONDS = 1.0
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_node_that_is_gone_is_taken_over(tmp_path, monkeypatch):
    """Its process cannot be asked for, as it was on another machine; while it lives, it keeps the lock."""
    without_flock(monkeypatch, errno.ENOSYS)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1.0)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert "another-node" in (tmp_path / "a.lease").read_text()
        time.sleep(2)  # longer than a lease: it is renewed
        with pytest.raises(Timeout), locked(tmp_path / "a", wait=False):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path / "a") as check:
        check()


def test_what_was_made_under_a_lost_lease_is_not_published(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.ENOSYS)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.3)
    recipe = Recipe("search", 1, {})

    def make(folder: Path) -> None:
        (folder.parent / f"{recipe.fingerprint}.lease").unlink()  # as who takes it over does
        time.sleep(0.5)

    with pytest.raises(SprigError, match="was lost to another process"):
        Store(tmp_path).obtain(recipe, make)
    assert Store(tmp_path).find(recipe) is None


def test_a_file_system_that_refuses_locks_is_one_sentence(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.ENOLCK)
    with pytest.raises(
        SprigError, match=r"does not support file locks \(No locks available\).* set a different outputs="
    ):
        Store(tmp_path).obtain(Recipe("search", 1, {}), lambda folder: None)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_other_failures_keep_their_own_words(tmp_path, monkeypatch, code):
    without_flock(monkeypatch, code)
    with pytest.raises(OSError) as failed, locked(tmp_path / "a"):
        pass
    assert failed.value.errno == code
