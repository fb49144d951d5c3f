"""Signals end a run where nothing is lost; Slurm is asked to queue a job again that it did not cancel itself."""

import contextlib
import os
import signal

import pytest

from pipeline.errors import Interrupted
from pipeline.preemption import check, deferred, preemptible

SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
if [ "$1" = show ]; then echo "JobId=17 JobState={state} Reason=None"; else {answer}; fi
"""


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Puts a scontrol on the path that notes its calls; job 17 is in the state given."""

    def put(state: str = "RUNNING", answer: str = "true"):
        calls = tmp_path / "calls"
        (tmp_path / "scontrol").write_text(SCONTROL.format(calls=calls, state=state, answer=answer))
        (tmp_path / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        return lambda: calls.read_text().splitlines()

    return put


def terminated():
    with pytest.raises(Interrupted, match="SIGTERM ended this run: the same command resumes from here"), preemptible():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal must end this")  # pragma: no cover


def test_a_signal_whose_exception_a_library_swallowed_is_not_lost():
    with pytest.raises(Interrupted, match="SIGTERM ended this run"), preemptible():
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        check()
        pytest.fail("the signal must end this")  # pragma: no cover
    check()


def test_a_preempted_job_asks_for_a_requeue(scontrol):
    calls = scontrol()
    terminated()
    assert calls() == ["show job 17", "requeue 17"]


def test_a_cancelled_job_does_not_come_back(scontrol):
    calls = scontrol(state="COMPLETING")
    terminated()
    assert calls() == ["show job 17"]


def test_a_requeue_that_slurm_refuses_is_said(scontrol, caplog):
    scontrol(answer="echo 'Requeue not allowed' >&2; exit 1")
    terminated()
    assert "requeue job 17 (Requeue not allowed): submit the same command again" in caplog.text


def test_without_slurm_nobody_is_asked(monkeypatch, caplog):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    terminated()
    assert "Slurm" not in caplog.text


def test_only_rank_0_asks(scontrol, tmp_path, monkeypatch):
    scontrol()
    monkeypatch.setenv("RANK", "1")
    terminated()
    assert not (tmp_path / "calls").exists()


def test_a_deferred_signal_is_told_and_ends_the_run_later():
    with pytest.raises(Interrupted), preemptible():
        with deferred() as signalled:
            assert signalled() is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signalled() == "SIGUSR1"
        pytest.fail("nobody heeded it, so it ends the run here")  # pragma: no cover


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    terminated()
    assert signal.getsignal(signal.SIGTERM) is before
    with preemptible(), deferred() as signalled:
        assert signalled() is None
