"""A wsd training that goes on from a shorter one's stable phase is, to the bit, the one that never stopped."""

import numpy as np
import pytest
from tiny_training import TinyBlocks, assert_same_weights, budget, metrics, stable_phase, teacher, train

from pipeline.training.cache import LogitsCache


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("stage", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_budgets_share_the_stable_phase(stage, cached, tmp_path):
    options = {"stage": stage}
    if cached:
        options["cache"] = LogitsCache(tmp_path, "key", TinyBlocks(), 90, budget(8, "sampled"))
        options["cache"].fill(np.arange(20), teacher, "fp32")
    kind = "sampled" if cached else "off"
    short = stable_phase(tmp_path / "short", 3, budget(4, kind), **options)
    long = stable_phase(tmp_path / "long", 6, budget(8, kind), begin=short, **options)
    logged = []
    for steps, begin in ((4, short), (8, long)):
        extended, whole = tmp_path / f"extended{steps}", tmp_path / f"whole{steps}"
        weights = train(extended, config=budget(steps, kind), begin=begin, log=logged.append, **options).state_dict()
        assert_same_weights(weights, train(whole, config=budget(steps, kind), **options).state_dict())
        assert (extended / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        assert [line["tokens"] for line in metrics(extended) if "loss" in line] == [64 * (n + 1) for n in range(steps)]
    assert [line["step"] for line in logged if "loss" in line] == [4, 7, 8], "each pays its own decay alone"


def test_an_extension_that_is_cut_goes_on_from_its_own_checkpoint(tmp_path):
    begin = stable_phase(tmp_path / "stable", 6, budget(8))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config=budget(12), begin=begin, lives=5)  # in the third step of its own
    weights = train(tmp_path / "cut", config=budget(12), begin=begin, run="tiny").state_dict()
    assert_same_weights(weights, train(tmp_path / "whole", config=budget(12)).state_dict())
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
