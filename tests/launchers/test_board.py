"""The live table of a sweep's jobs."""

import io
from types import SimpleNamespace

from rich.console import Console

from launchers.sweep.board import Board


def test_what_tells_jobs_apart_is_whole_in_80_columns(tmp_path):
    """However long the line is that a job fails with."""
    names = {"0123abcd": ("distill.init=random_subnetwork", "seed=0"), "4567abcd": ("distill.init=searched", "seed=1")}
    known = {name: {"seconds": 61.0, "log": None, "error": "went wrong " * 20} for name in names}
    jobs = [SimpleNamespace(id=name, label=lambda axes, name=name: " ".join(names[name])) for name in names]
    for job in jobs:
        job.completed = lambda: False
    board = Board(jobs, SimpleNamespace(folder=tmp_path, jobs=known), {})
    board.states["4567abcd"] = "failed"
    Console(width=80, file=(shown := io.StringIO())).print(board._table())
    assert all(pair in shown.getvalue() for pairs in names.values() for pair in pairs)
    assert "failed" in shown.getvalue() and "went" in shown.getvalue()
