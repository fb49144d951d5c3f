"""An out-of-memory error halves the micro-batch, and the training ends where it would have with the smaller one."""

import json
import logging

import pytest
import torch
from tiny_training import settings, train

from pipeline.errors import SprigError
from pipeline.training import fitting
from pipeline.training.batch import Batch
from pipeline.training.engine import Engine, batching
from pipeline.training.fitting import fitted

WHOLE = settings(micro_batch=4)


@pytest.fixture
def device_of(monkeypatch):
    """A device that holds so many blocks, and only from a step on looks full."""

    def limit(blocks: int, from_step: int = 1) -> list[int]:
        step, tried = Engine.step, []

        def limited(self, micro_batches, *arguments, **options):
            if not isinstance(micro_batches[0], Batch):  # the step in which DeepSpeed makes the optimizer's state
                return step(self, micro_batches, *arguments, **options)
            tried.append(len(micro_batches[0].tokens))
            if len(micro_batches[0].tokens) > blocks and len(tried) >= from_step:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return step(self, micro_batches, *arguments)

        monkeypatch.setattr(Engine, "step", limited)
        return tried

    return limit


def losses(folder) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("from_step", [1, 4])
def test_the_result_is_that_of_the_smaller_micro_batch(tmp_path, device_of, caplog, from_step):
    """Also if the memory runs out in the middle, after a checkpoint and a step beyond it."""
    whole, one = tmp_path / "whole", tmp_path / "one"
    expected = train(one, config=settings(micro_batch=1))
    tried = device_of(1, from_step)
    with caplog.at_level(logging.WARNING, "sprig"):
        trained, size = fitted(whole, WHOLE, lambda layout: train(whole, config=layout))
    assert size == 1 and tried[from_step - 1 : from_step + 1] == [4, 2] and set(tried[from_step + 1 :]) == {1}
    assert "Out of memory with distill.micro_batch=4: training resumes with 2." in caplog.text
    assert losses(whole) == pytest.approx(losses(one), abs=1e-5)
    for ours, theirs in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_training_that_is_started_again_remembers(tmp_path, device_of):
    tried = device_of(2)
    fitted(tmp_path, WHOLE, lambda layout: train(tmp_path, config=layout))
    tried.clear()
    fitted(tmp_path, WHOLE, lambda layout: train(tmp_path, config=layout))
    assert not tried  # from its last step, with nothing left to do
    assert fitted(tmp_path, WHOLE, lambda layout: layout.micro_batch) == (2, 2)


def test_less_than_one_block_does_not_exist(tmp_path, device_of):
    device_of(0)
    with pytest.raises(SprigError, match=r"distill.micro_batch=1: set distill.activation_checkpointing=true"):
        fitted(tmp_path, WHOLE, lambda layout: train(tmp_path, config=layout))


@pytest.mark.parametrize(("share", "first", "then"), [(24, 8, 8), (24, 7, 6), (9, 4, 3), (5, 4, 1), (5, 0, None)])
def test_a_smaller_micro_batch_divides_the_share(share, first, then):
    assert fitting._at_most(settings(global_batch=share), first) == then


def test_what_fits_one_gpu_is_fitted_to_another_number_of_them(tmp_path, monkeypatch):
    """6 of 24 blocks do not divide the 8 of each of three."""
    (tmp_path / fitting._FITS).write_text("6")
    monkeypatch.setattr(fitting, "world_size", lambda: 3)
    config = settings(global_batch=24, micro_batch=None)
    assert fitted(tmp_path, config, lambda layout: batching(layout, 3).micro_batch) == (4, 4)


def test_of_several_ranks_the_next_start_is_smaller(tmp_path, monkeypatch):
    """Their training cannot begin again in the middle of a step."""
    monkeypatch.setattr(fitting, "world_size", lambda: 2)

    def train_on_two(layout):
        if layout.micro_batch == 2:
            raise torch.OutOfMemoryError
        return layout.micro_batch

    with pytest.raises(SprigError, match=r"run the same command again; .* with distill.micro_batch=1"):
        fitted(tmp_path, settings(micro_batch=2), train_on_two)
    assert fitted(tmp_path, settings(micro_batch=2), train_on_two) == (1, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_note_of_what_fits_is_found_out_again(tmp_path, content):
    (tmp_path / fitting._FITS).write_text(content)
    assert fitting._remembered(tmp_path) > WHOLE.micro_batch
