"""The logits cache in whole runs: filled once, read by others, refused where it is of something else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import changed, smoke

import pipeline
from pipeline.artifacts import Recipe, check
from pipeline.errors import SprigError
from pipeline.stages import cache
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import flops_per_token

ROOT = Path(__file__).parents[2]
SHORT = ["distill.tokens=512", "distill.validations=1", "distill.control.enabled=false", "stages=[distill]"]
SAMPLED = ["distill.cache.kind=sampled", "distill.cache.slots=12"]


@pytest.fixture(scope="module")
def outputs(smoke_outputs, tmp_path_factory) -> Path:
    """Of the smoke run, and a short distillation with a cache."""
    outputs = tmp_path_factory.mktemp("cache") / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    pipeline.run(smoke(outputs, *SHORT, *SAMPLED))
    return outputs


def cache_of(outputs) -> Path:
    (manifest,) = (outputs / "artifacts/cache").glob("*/manifest.json")
    return manifest.parent


def no_teacher(monkeypatch):
    def load(*_):
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(Context, "teacher", load)


def test_it_holds_the_blocks_of_the_budget_and_says_of_whom(outputs):
    folder = cache_of(outputs)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == {} and manifest["inputs"].keys() == {"teacher", "tokens"}
    assert manifest["config"] == {"kind": "sampled", "slots": 12, "temperatures": [1.0], "precision": "fp32"}
    (trained,) = (
        path for path in (outputs / "artifacts/distill").glob("*/manifest.json") if '"cache":' in path.read_text()
    )
    assert json.loads(trained.read_text())["inputs"]["cache"] == folder.name
    size = (folder / "records/0.bin").stat().st_size
    assert size == 512 // 32 * (16 + 8 + 32 * (12 * 2 + 8 + 4))


def test_another_student_reads_it_without_the_teacher(outputs, monkeypatch):
    no_teacher(monkeypatch)
    pipeline.run(smoke(outputs, *SHORT, *SAMPLED, "distill.lr=2e-3"))
    assert cache_of(outputs)  # still one


def test_the_mode_changes_no_result(outputs):
    before = set((outputs / "artifacts/distill").iterdir())
    pipeline.run(smoke(outputs, *SHORT, *SAMPLED, "distill.cache.mode=read"))
    assert set((outputs / "artifacts/distill").iterdir()) == before


def test_by_itself_it_fills_and_verifies(outputs, tmp_path, caplog):
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy, symlinks=True)
    alone = ["distill.tokens=1024", "stages=[cache]", "distill.cache.verify=2"]
    pipeline.run(smoke(copy, *SAMPLED, *alone))
    assert "2 blocks of the cache were computed again: 2 are identical" in caplog.text
    wanted = ["distill.cache.mode=read", "distill.tokens=1024"]
    pipeline.run(smoke(copy, *SAMPLED, "stages=[cache]", *wanted))
    with pytest.raises(SprigError, match=r"lacks 16 of 32 blocks of this run"):
        pipeline.run(smoke(outputs, *SAMPLED, "stages=[cache]", *wanted))


@pytest.mark.parametrize("name", ["teacher", "tokens"])
def test_a_cache_of_something_else_is_refused_with_both_hashes(outputs, tmp_path, name):
    foreign = tmp_path / "foreign"
    shutil.copytree(cache_of(outputs), foreign)
    manifest = json.loads((foreign / "manifest.json").read_text())
    ours = manifest["inputs"][name]
    manifest["inputs"][name] = "0123456789abcdef"
    described = Recipe(*(manifest[key] for key in ("stage", "version", "config", "inputs")))
    manifest["fingerprint"] = described.fingerprint
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    read = ["distill.cache.mode=read", f"distill.cache.path={foreign}", "distill.lr=3e-3"]
    with pytest.raises(SprigError, match=rf"filled with {name} 0123456789abcdef, but this run's {name} is {ours}"):
        pipeline.run(smoke(outputs, *SHORT, *SAMPLED, *read))


@pytest.mark.parametrize("mode", ["fill", "read"])
@pytest.mark.parametrize("torn", ["", '{"stage": "cache"', "{}", "[]", "null", '{"files": {}}'])
def test_a_torn_manifest_is_refused(outputs, tmp_path, torn, mode):
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy, symlinks=True)
    (cache_of(copy) / "manifest.json").write_text(torn)
    with pytest.raises(SprigError, match=r"artifacts/cache/\w+ was changed .* manifest.json cannot be read"):
        context = Context(smoke(copy, *SHORT, *SAMPLED, f"distill.cache.mode={mode}"), log=print)
        cache.complete(context, roots(context))


def test_verify_reads_every_record(outputs, tmp_path):
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy, symlinks=True)
    folder = cache_of(copy)
    check(folder, everything=True)
    content = bytearray((folder / "records/0.bin").read_bytes())
    content[content.index(bytes(content[-50:-40]))] ^= 1
    (folder / "records/0.bin").write_bytes(content)
    with pytest.raises(SprigError, match=r"1 damaged records among the 16 of records, record \d+ first: .*fill"):
        check(folder, everything=True)


@pytest.mark.parametrize("place", [[], ["distill.cache.path=/nowhere"]])
def test_the_advice_to_fill_a_cache_composes(tmp_path, place):
    """distill.cache.mode=fill is refused with a path."""
    words = [*SAMPLED, "distill.cache.mode=read", *place]
    context = Context(smoke(tmp_path, *words), print)
    with pytest.raises(SprigError, match=r"There is no logits cache in .*: fill one with ") as caught:
        cache.check_found(context, roots(context))
    advised = str(caught.value).rpartition("fill one with ")[2].rstrip(".").split()
    assert smoke(tmp_path, *changed(words, *advised)).distill.cache.mode == "fill"


def test_a_cache_from_elsewhere(outputs, tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    shutil.copytree(cache_of(outputs), foreign)
    read = ["distill.cache.mode=read", f"distill.cache.path={foreign}", "distill.lr=4e-3"]
    no_teacher(monkeypatch)
    with pytest.raises(SprigError, match=r"slots=12, and this run has slots=11: .*mode=fill distill.cache.path=null"):
        pipeline.run(smoke(outputs, *SHORT, *SAMPLED, *read, "distill.cache.slots=11"))
    pipeline.run(smoke(outputs, *SHORT, *SAMPLED, *read))
    shutil.rmtree(foreign / "records")
    with pytest.raises(SprigError, match=r"There is no logits cache in .*foreign and distill.cache.mode=read"):
        pipeline.run(smoke(outputs, *SHORT, *SAMPLED, *read, "distill.lr=5e-3"))


def test_more_slots_than_ids(tmp_path):
    with pytest.raises(SprigError, match=r"distill.cache.slots=257 with a vocabulary of 257: keep at most 256"):
        pipeline.run(smoke(tmp_path, "distill.cache.kind=topk", "distill.cache.slots=257"))


def test_the_plan_prices_it(tmp_path, capsys):
    pipeline.run(smoke(tmp_path, *SAMPLED, "plan=true"))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "logits cache sampled, 4,096 tokens, 0.1 MiB;" in shown and "FLOPs to fill" in shown
    assert "distill 4,096 tokens" in shown and "+ 0 teacher FLOPs" in shown


def test_the_teacher_costs_each_block_once(outputs):
    """However often it is trained on; without a cache, each token."""
    cached = Context(smoke(outputs, *SAMPLED), log=print)
    online = Context(smoke(outputs), log=print)
    (index,) = (outputs / "artifacts/prepare").glob("*/index.json")
    text = 32 * json.loads(index.read_text())["splits"]["train"]["blocks"]
    a_token = flops_per_token(cached.architecture, length=32)
    for trained in (0, 512, text, 3 * text):
        assert cache.teacher_flops(cached, trained) == a_token * min(trained, text)
        assert cache.teacher_flops(online, trained) == a_token * trained
    result = pipeline.run(smoke(outputs, *SHORT[:-1], *SAMPLED, "stages=[report]"))
    assert result["student"]["flops"]["teacher"] == a_token * 512


@pytest.mark.slow
def test_two_ranks_fill_what_one_rank_reads_in_its_second_epoch(tmp_path):
    """Filled by two processes at batch 4, read by one at batch 6, for more tokens than the text has."""
    common = ["experiment=smoke", f"outputs={tmp_path}", "precision=fp32", *SAMPLED, "data.max_tokens=20_000"]
    common += [
        "data.validation=0.3",
        "data.repeat=true",
        "evaluate.blocks=4",
        "distill.control.enabled=false",
        "distill.validations=2",
    ]
    common += ["search=importance", "space.layers=rank", "search.random_baseline=false", "data.repeat=true"]
    fill = [
        *common,
        "stages=[prepare,cache]",
        "distill.tokens=40_000",
        "distill.micro_batch=4",
        "distill.global_batch=8",
    ]
    read = [*common, "distill.tokens=40_000", "distill.micro_batch=6", "distill.global_batch=6"]
    read += [
        "distill.cache.mode=read",
        "distill.cache.verify=20",
        "stages=[prepare,order,search,extract,recover,distill]",
    ]
    for starter, overrides in ((["launchers.torchrun", "2"], fill), (["pipeline"], read)):
        command = [sys.executable, "-m", *starter, *overrides]
        finished = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400
        )
        assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-3000:]
    log = (tmp_path / "smoke/latest/run.log").read_text()
    assert "it is read" in log and "20 are identical" in log
