"""What progress says, when, and to whom. Time is a number that the test sets."""

import io
import re

import pytest

from pipeline import progress
from pipeline.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_long_work_has_a_line_every_thirty_seconds(clock, capsys):
    with Progress("train", total=1_000_000, unit="tokens") as bar:
        for _ in range(70):
            clock.now += 1
            bar.advance(1000)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{done},000/1.00M" for done in (30, 60, 70)
    ]


def test_lines_off_a_terminal_come_every_tenth_but_not_within_ten_seconds(clock, capsys):
    with Progress("tokenise", total=4000, unit="documents") as bar:
        for _ in range(34):
            clock.now += 1
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "tokenise 1,000/4,000 documents, 100/s, 0:30 left",
        "tokenise 2,000/4,000 documents, 100/s, 0:20 left",
        "tokenise 3,000/4,000 documents, 100/s, 0:10 left",
        "tokenise 3,400/4,000 documents, 100/s, 0:06 left",
    ]


def test_quick_work_prints_nothing(clock, capsys):
    with Progress("tokenise", total=2) as bar:
        clock.now += 9
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_status_without_total_with_start_and_fields(clock):
    with Progress("read", unit="tokens") as bar:
        clock.now += 2
        bar.advance(3, loss=1.5)
        bar.advance(2, lr="1e-4")
        assert bar.status() == "read 5 tokens, 2.50/s, loss 1.5, lr 1e-4"
    with Progress("train", total=100_000, unit="tokens", start=90_000) as bar:
        assert bar.status() == "train 90,000/100,000 tokens, 0.00/s"
        clock.now += 10
        bar.advance(10, loss=2)
        assert bar.status() == "train 90,010/100,000 tokens, 1.00/s, 2:46:30 left, loss 2"
        bar.advance(9990)
        assert bar.status() == "train 100,000/100,000 tokens, 1,000/s, 0:10 in all, loss 2"


def test_the_line_has_the_time_that_the_whole_run_takes(clock, monkeypatch):
    monkeypatch.setattr(Progress, "after", 3600.0)
    with Progress("train", total=1_000, unit="tokens") as bar:
        clock.now += 60
        bar.advance(500)
        assert bar.status() == "train 500/1,000 tokens, 8.33/s, 1:00/1:01:00 left"
        bar.advance(500)
        assert bar.status().endswith(", 1:00 in all")


def test_other_ranks_and_inner_work_are_quiet(clock, capsys, monkeypatch):
    with Progress("outer", total=10) as outer:
        with Progress("inner", total=10) as inner:
            clock.now += 60
            inner.advance(1)
        outer.advance(1)
    assert capsys.readouterr().err == "outer 1/10 steps, 0.02/s, 9:00 left\n"
    monkeypatch.setenv("RANK", "1")
    with Progress("elsewhere", total=10) as bar:
        clock.now += 60
        bar.advance(1)
    assert capsys.readouterr().err == ""


def test_shown_again_after_a_failure(clock, capsys):
    with pytest.raises(ValueError), Progress("first", total=10):
        raise ValueError
    with Progress("second", total=10) as bar:
        clock.now += 60
        bar.advance(1)
    assert "second 1/10" in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("tokenise", total=8, unit="documents") as bar:
        bar.advance(8, loss=1)
    assert "━" * progress.BAR_WIDTH in screen.getvalue()
    assert "8/8 documents" in screen.getvalue() and "loss 1" in screen.getvalue()


def test_one_line_fits_80_columns(monkeypatch, clock):
    """The longest that a training shows: billions of tokens, for half a day."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with Progress("distill student", total=60_000_000_000, unit="tokens") as bar:
        clock.now += 1_000
        bar.advance(1_234_567_890, perplexity="101.23")
        bar.advance(0)
    lines = re.findall(r"distill student[^\x1b\r\n]*", screen.getvalue())
    assert lines[-1] == "distill student 1.23B/60.00B tokens, 1.23M/s, 13:13:20 left, perplexity 101.23"
    assert all(len(line) <= 80 for line in lines) and "…" not in screen.getvalue()
