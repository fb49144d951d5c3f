"""A wsd training that goes on from a shorter one's stable phase is, to the bit, the one that never stopped."""

import pytest
from tiny_training import assert_same_weights, metrics, settings, train

from pipeline.config import ScheduleConfig, ScheduleKind
from pipeline.training import checkpoints

WSD = ScheduleConfig(kind=ScheduleKind.wsd, warmup_tokens=128, decay=0.25, floor=0.0)


def budget(steps: int):
    return settings(tokens=64 * steps, schedule=WSD, validation_tokens=128)


def stable_phase(folder, steps: int, of: int, **options):
    """The stable phase of a budget of `of` steps, whose decay begins after `steps`."""
    train(folder, config=budget(of), until=steps, **options)
    checkpoints.publish(folder, steps)
    return folder


@pytest.mark.parametrize("stage", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_budgets_share_the_stable_phase(stage, tmp_path):
    short = stable_phase(tmp_path / "short", 3, of=4, stage=stage)
    long = stable_phase(tmp_path / "long", 6, of=8, begin=short, stage=stage)
    logged = []
    for steps, begin in ((4, short), (8, long)):
        extended, whole = tmp_path / f"extended{steps}", tmp_path / f"whole{steps}"
        weights = train(extended, config=budget(steps), begin=begin, log=logged.append, stage=stage).state_dict()
        assert_same_weights(weights, train(whole, config=budget(steps), stage=stage).state_dict())
        assert (extended / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        assert [line["tokens"] for line in metrics(extended) if "loss" in line] == [64 * (n + 1) for n in range(steps)]
    assert [line["step"] for line in logged if "loss" in line] == [4, 7, 8], "each pays its own decay alone"


def test_an_extension_that_is_cut_goes_on_from_its_own_checkpoint(tmp_path):
    begin = stable_phase(tmp_path / "stable", 6, of=8)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config=budget(12), begin=begin, lives=5)  # in the third step of its own
    weights = train(tmp_path / "cut", config=budget(12), begin=begin, run="tiny").state_dict()
    assert_same_weights(weights, train(tmp_path / "whole", config=budget(12)).state_dict())
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
