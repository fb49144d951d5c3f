"""The logits cache: filled by anyone, in any order, it serves every block as the teacher sees it."""

import errno
import os

import numpy as np
import pytest
import torch
from tiny_training import SEED, TinyBlocks, metrics, settings, teacher, train

from pipeline.config import CacheConfig
from pipeline.errors import SprigError
from pipeline.training import cache as module
from pipeline.training.cache import LogitsCache
from pipeline.training.order import block_numbers

ALL = np.arange(20)


def config(kind="topk", slots=8, mode="fill", **changes):
    return settings(cache=CacheConfig(kind=kind, slots=slots, mode=mode), **changes)


def opened(folder, settings=None, key="key"):
    folder.mkdir(exist_ok=True)
    return LogitsCache(folder, key, TinyBlocks(), 90, settings or config())


def filled(folder, settings=None, numbers=ALL):
    cache = opened(folder, settings)
    cache.fill(numbers, teacher, "fp32")
    return cache


def content(folder, settings=None) -> list[bytes]:
    cache = opened(folder, settings)
    return [cache.records.read(number) for number in ALL]


def loaded_twice():
    raise AssertionError("the teacher was loaded for a cache that lacks nothing")


@pytest.fixture(autouse=True)
def several_passes(monkeypatch):
    monkeypatch.setattr(module, "PASS_TOKENS", 3 * TinyBlocks.block_size)


@pytest.mark.parametrize("kind", ["sampled", "topk"])
def test_two_ranks_at_batch_4_serve_one_rank_at_batch_6_in_epoch_2(kind, tmp_path, monkeypatch):
    """The order of two epochs is walked through as by two ranks, and each block is compared with the teacher's own
    view of it."""
    chosen = config(kind, 80)
    for rank in (1, 0):
        with monkeypatch.context() as patched:
            patched.setattr(module, "rank", lambda rank=rank: rank)
            patched.setattr(module, "world_size", lambda: 2)
            for start in range(0, 20, 4):
                opened(tmp_path, chosen).fill(block_numbers(20, SEED, start, 4), teacher, "fp32")
    cache = opened(tmp_path, config(kind, 80, mode="read"))
    cache.check_complete(ALL)
    for start in range(20, 38, 6):
        numbers = block_numbers(20, SEED, start, 6)
        given = cache.take(numbers)
        logits = teacher()(TinyBlocks().take(numbers)[:, :-1])[..., :90].flatten(0, 1)
        p = (logits / 2).softmax(1)
        if kind == "topk":
            torch.testing.assert_close(given.log_p[:, :-1].exp(), p.gather(1, given.ids), rtol=2e-3, atol=1e-6)
            assert (given.ids == logits.topk(80).indices).float().mean() > 0.99
        else:
            weights = torch.zeros_like(p).scatter_(1, given.ids, given.weights)
            assert (given.weights > p.gather(1, given.ids) - 1.001 / 320).all(), "none below its own, in 320 draws"
            assert ((weights - p).abs().sum(1) < (weights - p.roll(1, 0)).abs().sum(1)).all()
            torch.testing.assert_close(given.entropy, -(p * p.log()).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sampled", "topk"])
def test_order_batches_and_interruptions_change_no_record(kind, tmp_path):
    whole = filled(tmp_path / "whole", config(kind))
    pieces = opened(tmp_path / "pieces", config(kind))
    for numbers in ([19], [3, 1, 4, 15, 9], [3, 2], ALL[::-1]):
        pieces.fill(np.array(numbers), teacher, "fp32")
    contents = [content(tmp_path / name, config(kind)) for name in ("pieces", "whole")]
    assert contents[0] == contents[1] and None not in contents[0]
    whole.fill(ALL, loaded_twice, "fp32")


def test_a_block_is_sampled_by_its_number(tmp_path):
    """Equal tokens in two blocks, but other draws."""
    cache = filled(tmp_path, config("sampled", 80))
    twins = TinyBlocks()
    twins.tokens = TinyBlocks.tokens.clone()
    twins.tokens[1] = twins.tokens[0]
    other = LogitsCache(tmp_path, "other", twins, 90, config("sampled", 80))
    first, second = (np.frombuffer(each, other.dtype) for each in other._compute([0, 1], teacher(), "fp32"))
    assert (first["entropy"] == second["entropy"]).all() and (first["ids"] != second["ids"]).any()
    assert first.tobytes() == cache.records.read(0)


def test_a_flipped_byte_is_refused_by_the_reader_and_computed_again_by_the_filler(tmp_path):
    cache = filled(tmp_path)
    good, file = content(tmp_path), tmp_path / "records/0.bin"
    flipped = bytearray(file.read_bytes())
    flipped[len(flipped) // 20 * 7 + 100] ^= 4
    file.write_bytes(flipped)
    with pytest.raises(SprigError, match=r"Block 7 of cache .* is missing or damaged"):
        cache.take(np.array([3, 7]))
    with pytest.raises(SprigError, match=r"lacks 1 of 20 blocks of this run, block 7 first"):
        opened(tmp_path, config(mode="read")).check_complete(ALL)
    opened(tmp_path).fill(ALL, teacher, "fp32")
    assert content(tmp_path) == good


def test_a_cache_too_small_for_the_run_is_refused(tmp_path):
    filled(tmp_path, numbers=ALL[:12])
    cache = opened(tmp_path, config(mode="read"))
    cache.check_complete(ALL[:12])
    with pytest.raises(
        SprigError, match=r"lacks 8 of 20 blocks .* block 12 first, .*mode=fill, or lower distill.tokens"
    ):
        cache.check_complete(ALL)
    elsewhere = CacheConfig(kind="topk", slots=8, mode="read", path="/elsewhere")
    with pytest.raises(SprigError, match=r"with distill.cache.mode=fill distill.cache.path=null, or lower"):
        opened(tmp_path, settings(cache=elsewhere)).check_complete(ALL)


def test_what_was_filled_when_the_disk_was_full_is_kept(tmp_path, monkeypatch):
    write, calls = os.pwrite, []

    def full_after_7(file, data, place):
        if len(calls) == 7 and len(data) > 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        calls.extend([place] * (len(data) > 100))  # of a record, not of the list
        return write(file, data, place)

    with monkeypatch.context() as patched, pytest.raises(OSError) as raised:
        patched.setattr(os, "pwrite", full_after_7)
        filled(tmp_path / "cache")
    assert raised.value.errno == errno.ENOSPC and "records/0.bin" in raised.value.filename
    cache = opened(tmp_path / "cache")
    assert cache.records.missing(ALL).tolist() == list(range(7, 20))
    cache.fill(ALL, teacher, "fp32")
    filled(tmp_path / "whole")
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["sampled", "topk"])
def test_verification_tells_another_teacher(kind, tmp_path, caplog):
    caplog.set_level("INFO", "sprig")
    cache = filled(tmp_path, config(kind))
    cache.verify(np.array([5, 0, 17]), teacher(), "fp32")
    assert "3 blocks of the cache were computed again: 3 are identical" in caplog.text
    other = teacher()
    torch.nn.init.normal_(other.lm_head.weight, generator=torch.Generator().manual_seed(5))
    with pytest.raises(SprigError, match=r"Block 5 of cache .* in total variation from what the teacher gives now"):
        cache.verify(np.array([5]), other, "fp32")


def lines(folder) -> list[dict]:
    return [line for line in metrics(folder) if "loss" in line]


def test_training_from_a_cache_that_keeps_everything_is_training_with_the_teacher(tmp_path):
    """All but one id kept: what is left of a difference is the 16 bits of the log-probabilities."""
    train(tmp_path / "online")
    settings = config("topk", 89)
    train(tmp_path / "cached", config=settings, cache=filled(tmp_path / "cache", settings))
    for ours, wanted in zip(lines(tmp_path / "cached"), lines(tmp_path / "online"), strict=True):
        assert ours == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_training_from_samples_resumes_to_the_bit(stage, tmp_path):
    settings = config("sampled", 40)
    cache = filled(tmp_path / "cache", settings)
    whole = train(tmp_path / "whole", config=settings, cache=cache, stage=stage).state_dict()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config=settings, cache=cache, stage=stage, lives=9)
    weights = train(tmp_path / "cut", config=settings, cache=cache, stage=stage).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.items())
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
