"""Standard streams that are closed, end early, or have another encoding."""

import errno
import io
import logging
import os
import sys

import pytest
from rich.console import Console

from pipeline import streams
from pipeline.errors import SprigError
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


def log_to(console: Console) -> None:
    streams.LogHandler(console=console).emit(logging.makeLogRecord({"msg": "a line"}))


WAYS = {
    "print": lambda full: print("a line", file=full, flush=True),
    "rich": lambda full: Console(file=full).print("a line"),
    "log": lambda full: log_to(Console(file=full)),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(("name", "called"), [("stdout", "Standard output"), ("stderr", "Standard error")])
@pytest.mark.parametrize("way", WAYS)
def test_a_full_stream_is_named(monkeypatch, capfd, name, called, way):
    """Also where the error was given another file's name on its way."""

    @streams.usable()
    def written() -> None:
        try:
            WAYS[way](full)
        except OSError as error:
            error.filename = "outputs"
            raise

    with open("/dev/full", "w") as full, monkeypatch.context() as patched:
        patched.setattr(sys, name, full)
        with pytest.raises(SprigError, match=rf"{called} cannot be written \(no space left on device\); what was"):
            written()
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_disk_of_another_file_is_not_the_streams(capfd):
    with pytest.raises(OSError, match="outputs"), streams.usable():
        raise OSError(errno.ENOSPC, "No space left on device", "outputs")


def test_a_width_of_zero_is_none(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    with streams.usable():
        assert "COLUMNS" not in os.environ
