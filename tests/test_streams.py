"""Standard streams that are closed, end early, or have another encoding."""

import io
import os
import sys

import pytest

from pipeline import streams
from pipeline.terminal import say


def test_closed_streams_are_empty(monkeypatch):
    for name in streams.ON_MISFITS:
        monkeypatch.setattr(sys, name, None)
    with streams.usable():
        say("é")
        print("é", file=sys.stderr)
        assert sys.stdin.read() == "" and not sys.stdin.isatty()


def test_no_character_fails(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written := io.BytesIO(), "latin-1"))
    with streams.usable():
        say(sys.stdin.read(), "é")
    assert written.getvalue() == b"caf\\ufffd\n\xe9\n"


def test_a_reader_that_ends_early_ends_the_process(monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as stopped, streams.usable():
            print("a line")
    assert stopped.value.code == 1 and capfd.readouterr() == ("", "")


def test_a_width_of_zero_is_none(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    with streams.usable():
        assert "COLUMNS" not in os.environ
