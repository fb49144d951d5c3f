"""A layout is checked before anything starts, and priced without the processes that it needs."""

import pytest

import pipeline
from pipeline.errors import SprigError
from pipeline.plan.table import table
from pipeline.stages.context import Context


def test_a_layout_of_sixteen_is_priced_by_one(capsys):
    wide = ["experiment=smoke", "distill.global_batch=64", "deepspeed=zero2", "deepspeed.world_size=16", "plan=true"]
    rows, alone = (dict(table(Context(pipeline.compose(each), log=print))) for each in (wide, wide[:3] + wide[-1:]))
    assert rows["batch"] == "64 blocks of 32 tokens: 16 processes x 2 blocks x 2 accumulation steps"
    assert rows["processes"].startswith("16 on ")
    share, whole = (float(each["memory per process, distill"].split()[0]) for each in (rows, alone))
    assert share < whole


def test_another_number_of_processes_than_configured_is_refused(tmp_path):
    with pytest.raises(SprigError, match=r"deepspeed\.world_size=2, but 1 process started: start 2"):
        pipeline.run(pipeline.compose(["experiment=smoke", f"outputs={tmp_path}", "deepspeed.world_size=2"]))
