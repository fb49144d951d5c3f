"""The command line: what it accepts, and that bad input gets one sentence with the cure and exit code 1."""

import errno
import mmap
import os
import shlex
import shutil
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from covering import slow
from omegaconf import OmegaConf

from pipeline import cli, compose, runner
from pipeline.config import to_plain
from pipeline.errors import SprigError
from pipeline.models import sources
from pipeline.subnetwork.counting import parameters
from pipeline.training import checkpoints

ROOT = Path(__file__).parent.parent
GROUPS_OF_PRESETS = ("experiment", "base", "selection", "init", "kd")  # chosen within one alone
SMOKE = ["experiment=smoke"]
# Without a user's own, and one whose file is optional.
TEACHERS = sorted({path.stem for path in (ROOT / "conf/teacher").glob("*.yaml")} - {"local", "gemma-3-270m"})
FEW = ["lab-s", "mixtral-8x7b", "pythia-6.9b", "qwen3-0.6b", "smollm2-135m"]  # others plan like these
NEEDED = {  # what an option cannot be composed without
    "data=text": ["data.path=x"],
    "teacher=local": ["teacher.source=hf", "teacher.path=x", "data=sotu"],
    "bin=own": ["bin.center=60M"],
    "experiment=product": ["teacher.path=x", "data.path=x", "bin.center=60M"],
    "search=given": ["search.path=x"],
}
CHOICES = {
    group.name: sorted(f"{group.name}={path.stem}" for path in group.glob("*.yaml"))
    for group in sorted((ROOT / "conf").iterdir())
    if group.is_dir() and group.name not in GROUPS_OF_PRESETS
}
# The first choice of every group together, the second, and so on: each of them once.
OPTIONS = [[option for option in row if option] for row in zip_longest(*CHOICES.values())]


def sprig(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sprig", *arguments])
    cli.main()


def refused(monkeypatch, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        sprig(monkeypatch, *arguments)
    sentence = stopped.value.code
    assert isinstance(sentence, str), "a text makes exit code 1"
    assert "Traceback" not in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.tokns=5", "no configuration key distill.tokns: did you mean distill.tokens?"),
        ("nonsense=5", "no configuration key nonsense"),
        ("teacher=nonsense", "There is no teacher=nonsense: the choices are gemma-3-270m, lab-l-shape"),
        ("distill.lr=fast", "distill.lr=fast is not a number."),
        ("space.layers=some", "expected one of [prefix, rank, subset]"),
        ("stages=[search,nonsense]", "stages names 'nonsense'; the stages are prepare, order"),
        ("seed=-1 plan=true", "seed=-1 must lie in 0..18_446_744_073_709_551_615"),
        ("sample.seed=18446744073709551616", "must lie in 0..18_446_744_073_709_551_615"),
        ("search.mutation.gene_rate=1.5", "search.mutation.gene_rate=1.5 must lie in 0..1"),
        ("search.mutation.global_rate=-0.1", "search.mutation.global_rate=-0.1 must lie in 0..1"),
        ("search.parents=100", "search.parents=100 exceeds search.population=6: lower it"),
        ("bin.low=900_000 bin.high=1_000_000", "cannot be reached from teacher tiny-random (191,040)"),
        ("bin=own", "No parameter bin is given: set bin.center=60M, for example, or bin.low and bin.high."),
        ("bin.low=90_000 bin.high=80_000", "bin.low=90,000 exceeds bin.high=80,000"),
        ("data.block_size=4096", "data.block_size=4096 exceeds the context of teacher tiny-random, 128"),
        ("distill.tokens=100", "distill.tokens=100 is below one batch of 4 blocks x 32 = 128 tokens"),
        ("distill.global_batch=5", "distill.global_batch=5, distill.micro_batch=2"),
        ("search=given", "search.strategy=given with search.path=None: `given` needs a path"),
        ("search=given search.path=/nowhere.json", "search.path=/nowhere.json cannot be read"),
        ("run=/nowhere", "run=/nowhere is not a run: give its folder"),
        ("search=importance space.layers=prefix", "space.layers=prefix: it needs space.layers=rank or subset"),
        ("search.start=[importance] ordering=none", "search importance needs a ranking, but"),
        ("search=first_layers space=coarse-layerwise space.layers=rank", "needs space.layers=prefix or subset"),
        ("search=uniform space=fine-uniform", "it needs space.granularity=coarse"),
        ("search.start=[nonsense]", "search.start"),
        ("search.limit.tokens=127", "all 4 blocks of 32 tokens, which takes at least 128 tokens: raise it, or lower"),
        ("search.limit.flops=1_000", "search.limit.flops=1,000 ends the search before a candidate is evaluated"),
        ("search.limit.flops=0", "search.limit.flops=0 must lie in 1..1e+30"),
        ("data.path=nowhere", "nowhere"),
        ("space.layers=rank ordering=none", "space.layers=rank needs a ranking of the layers"),
        ("teacher=smollm2-135m teacher.path=nowhere.gguf", "nowhere.gguf"),
        ("precision=bf16 deepspeed=zero0", "precision=bf16"),
        ("distill.betas=[0.9]", "distill.betas=[0.9] must be AdamW's two"),
        ("evaluate.speed.prefill=120", "evaluate.speed.prefill=120 and evaluate.speed.decode=16 exceed the context"),
        ("evaluate.prompt=' '", "evaluate.prompt is blank"),
        ("+deepspeed.zero_optimization.stage=3", "use deepspeed.zero_stage alone"),
        ("teacher@kd_teacher=pythia-14m", "kd_teacher pythia-14m has a vocabulary of 50,277"),
        ("teacher=local", "teacher.source has no value"),
        ("run=somewhere --multirun", "run=FOLDER reopens one run"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(monkeypatch, tmp_path, override, said):
    assert said in refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", *shlex.split(override))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *((f"{key}={value}", f"{key}={value} names no folder") for key in ("run", "sweep") for value in ("null", "")),
        *((f"run={value}", f"run={value} is not a run") for value in ("[a]", "{a:1}", "a,b", "1", "true")),
        *((f"sweep={value}", f"sweep={value} is not a sweep's folder") for value in ("[a,b]", "{a:1}", "a,b", "1")),
        ("+run=/nowhere stages=[report]", "run=/nowhere is not a run"),
        ("sweep=x experiment=smoke", "sweep=FOLDER reports on a sweep and does nothing else"),
        ("-m +run=x", "run=FOLDER reopens one run"),
        ("--info config experiment=nothing", "There is no experiment=nothing"),
    ],
)
def test_a_folder_that_is_none(monkeypatch, words, said):
    assert said in refused(monkeypatch, *words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("stages=[export] export.to={}/exported", "Stage distill was never run for this configuration"),
        ("stages=[sample] prompt=x", "Stage distill was never run"),
        ("stages=[chat]", "Stage distill was never run"),
        ("stages=[search]", "Stage prepare was never run"),
        ("stages=[prepare,distill]", "Stage recover was never run"),
        ("stages=[evaluate,report]", "Stage prepare was never run"),
        ("stages=[report]", "has not begun, so stages=[report] has nothing to report: give the same command without"),
        ("stages=[cache] distill.cache.kind=topk", "Stage prepare was never run"),
        ("distill.cache.kind=topk distill.cache.mode=read", "There is no logits cache in"),
    ],
)
def test_a_refused_command_makes_nothing(monkeypatch, tmp_path, words, said):
    command = shlex.split(words.format(tmp_path))
    assert said in refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", "precision=fp32", *command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "word",
    [
        "distill.lr=fast", "distill.tokens=abc", "distill.tokens=null", "seed=1.5", "seed=-1", "debug=maybe",
        "stages={a:1}", "space.layers=some", "search.start=[nonsense]", "distill.betas=[a,b]",
        "deepspeed.zero_optimization=5",
    ],
)  # fmt: skip
def test_a_bad_value_for_a_reopened_run_is_refused_as_for_a_new_one(monkeypatch, smoke_outputs, word):
    said = refused(monkeypatch, f"run={smoke_outputs}/smoke/latest", word)
    assert said == refused(monkeypatch, *SMOKE, word) and word in said


def test_a_run_is_reopened_by_its_name_in_the_given_outputs(monkeypatch, capsys, smoke_outputs, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNS", str(smoke_outputs))
    run = (smoke_outputs / "smoke/latest").resolve()
    for outputs in (smoke_outputs, os.path.relpath(smoke_outputs), "${oc.env:RUNS}"):
        sprig(monkeypatch, "run=smoke/latest", f"outputs={outputs}", "--cfg", "job")
        assert f"run: {run}\n" in capsys.readouterr().out
    assert refused(monkeypatch, "run=smoke/latest", "outputs=other").endswith(
        f"there is no run at {tmp_path / 'smoke/latest'} or {tmp_path / 'other/smoke/latest'}."
    )
    said = refused(monkeypatch, "run=smoke/latest", "stages=[report]")
    assert str(tmp_path / "outputs/smoke/latest") in said
    (tmp_path / "outputs").symlink_to(smoke_outputs)
    sprig(monkeypatch, "run=smoke/latest", "--cfg", "job")
    assert f"outputs: {smoke_outputs}\n" in capsys.readouterr().out
    sprig(monkeypatch, f"run={run}", "outputs=other", "--cfg", "job")
    assert "outputs: other\n" in capsys.readouterr().out, "where the run is made again"


def test_what_is_refused_with_other_values_leaves_the_latest_run(monkeypatch, smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    run, before = (outputs / "smoke/latest").resolve(), sorted((outputs / "smoke").iterdir())
    for stages in (["stages=[export]", f"export.to={tmp_path}/exported"], ["stages=[search]", "data.block_size=16"]):
        assert "was never run" in refused(monkeypatch, f"run={run}", "seed=9", *stages)
    assert "has not begun" in refused(monkeypatch, f"run={run}", "seed=9", "stages=[report]")
    (run / ".hydra/overrides.yaml").write_text("torn: 1")
    assert "overrides.yaml cannot be read" in refused(monkeypatch, f"run={run}", "seed=9", "stages=[prepare]")
    assert sorted((outputs / "smoke").iterdir()) == before and (outputs / "smoke/latest").resolve() == run


def test_a_run_whose_text_cannot_be_used_is_not_the_latest(monkeypatch, tmp_path):
    few = [*SMOKE, f"outputs={tmp_path}", "stages=[prepare]"]
    sprig(monkeypatch, *few)
    run = (tmp_path / "smoke/latest").resolve()
    assert "has 1 document, and" in refused(monkeypatch, *few, "data.max_tokens=3000")
    assert (tmp_path / "smoke/latest").resolve() == run


def test_a_plan_names_what_has_no_effect(monkeypatch, capsys):
    sprig(monkeypatch, "search.population=9", "distill.tokens=50_000", "plan=true")
    assert "search.population=9 has no effect" in capsys.readouterr().out


def test_a_stage_without_a_step_is_named(monkeypatch, smoke_outputs, caplog):
    run = (smoke_outputs / "smoke/latest").resolve()
    sprig(monkeypatch, f"run={run}", "stages=[prepare,rerank,cache]")
    idle = [line for line in caplog.messages if "no such step" in line]
    assert idle == [f"stages names {stage}, but this run has no such step." for stage in ("rerank", "cache")]


def test_an_error_about_the_budget_names_what_was_typed(monkeypatch, tmp_path):
    said = refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", "budget=30x", "data.max_tokens=100k", "plan=true")
    assert said.startswith("sprig: distill.tokens=2,400,000 would read the training text of")
    assert "lower the budget to budget=400_000" in said and said.endswith("The command sets it with budget=30x.")


def test_a_missing_token_budget_is_asked_for(monkeypatch):
    assert "distill.tokens has no value" in refused(monkeypatch, "teacher=smollm2-135m")


def test_a_run_asks_for_deterministic_algorithms_while_it_runs(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(runner, "_run", lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    for wanted in ("true", "false"):
        sprig(monkeypatch, *SMOKE, f"outputs={tmp_path}", f"deterministic={wanted}")
    assert seen == [True, False] and not torch.are_deterministic_algorithms_enabled()


def test_cuda_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device=cuda, but torch" in refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", "device=cuda")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "is full"), *slow([(errno.EROFS, "is read-only"), (errno.EACCES, "is not writable")])],
)
def test_a_folder_that_cannot_be_written_keeps_what_is_finished(monkeypatch, tmp_path, number, said):
    """The first weights fail to be written; what is there stays, and the same command goes on once there is room."""
    outputs, convert = tmp_path / "outputs", sources.convert

    def fail(teacher, folder):
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(sources, "convert", fail)
    sentence = refused(monkeypatch, *SMOKE, f"outputs={outputs}", "stages=[prepare]")
    assert said in sentence and "run the same command again" in sentence
    monkeypatch.setattr(sources, "convert", convert)
    sprig(monkeypatch, *SMOKE, f"outputs={outputs}", "stages=[prepare]")
    assert list(outputs.glob("artifacts/prepare/*/lit_model.pth"))


def test_a_working_directory_that_was_removed(monkeypatch, tmp_path):
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "The working directory was removed: change to another one" in refused(monkeypatch, *SMOKE, "plan=true")


def test_a_full_disk_without_a_file_is_named_by_its_outputs(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runner, "_run", full)
    assert f"{tmp_path} is full: what was finished is kept" in refused(monkeypatch, *SMOKE, f"outputs={tmp_path}")


@pytest.mark.parametrize(
    ("of", "name", "file"), [(os, "pwrite", "records/0.numbers"), (checkpoints, "save_file", "state.safetensors")]
)
def test_a_disk_that_fills_in_training_harms_nothing(monkeypatch, smoke_outputs, tmp_path, of, name, file):
    """While the logits cache is written, or a checkpoint; the same command goes on once there is room."""
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    published = {path: path.read_bytes() for path in outputs.glob("artifacts/*/*/*") if path.is_file()}
    command = [*SMOKE, f"outputs={outputs}", "precision=fp32", "distill.tokens=512", "distill.validations=1"]
    command += ["distill.control.enabled=false", "distill.cache.kind=sampled", "stages=[distill]"]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(of, name, full)
        sentence = refused(patched, *command)
    assert f"{file} is full: what was finished is kept" in sentence and "run the same command again" in sentence
    assert all(path.read_bytes() == content for path, content in published.items())
    assert len(list(outputs.glob("artifacts/distill/*/manifest.json"))) == 2, "those of the smoke run"
    sprig(monkeypatch, *command)
    assert len(list(outputs.glob("artifacts/distill/*/manifest.json"))) == 3


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),  # the CPU's allocator
        lambda: bytearray(1 << 60),
        lambda: mmap.mmap(-1, 1 << 60),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")),
        lambda: (_ for _ in ()).throw(ImportError("libx.so: failed to map segment from shared object")),
    ],
    ids=["tensor", "bytes", "system", "gpu", "import"],
)
def test_memory_that_runs_out(monkeypatch, tmp_path, fail):
    monkeypatch.setattr(sources, "convert", lambda *_: list(fail()))
    sentence = refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", "stages=[prepare]")
    assert "Out of memory" in sentence and "Lower the batch" in sentence


@pytest.mark.parametrize("plan", ["true", "false"])
@pytest.mark.parametrize(
    ("place", "said"),
    [("{}/file", "{}/file is not a folder"), ("{}/file/x", "{}/file is not a folder"), ("/proc", "/proc takes no")],
)
def test_outputs_that_cannot_be_written_are_refused_in_the_plan(monkeypatch, tmp_path, place, said, plan):
    (tmp_path / "file").write_text("")
    outputs = f"outputs={place.format(tmp_path)}"
    assert f"{outputs} cannot be made or written ({said.format(tmp_path)}" in refused(
        monkeypatch, *SMOKE, outputs, f"plan={plan}"
    )


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("export.to={}/" + "a" * 300, "export.to"),
        ("data.path={}/" + "a" * 300, "data.path"),
        ("run={}/" + "a" * 300, "run"),
    ],
)
def test_a_place_out_of_reach_is_blamed_on_its_own_key(monkeypatch, tmp_path, word, key):
    said = refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", word.format(tmp_path))
    assert str(tmp_path) in said and f"set a different {key}=" in said


@pytest.mark.parametrize(
    "teacher", [each for each in TEACHERS if each in FEW] + slow([each] for each in TEACHERS if each not in FEW)
)
def test_every_teacher_is_planned_without_its_weights(monkeypatch, capsys, teacher):
    """A bin of half the teacher's size, whatever that is."""
    overrides = [f"teacher={teacher}", "plan=true", "distill.tokens=1_000_000", "data.block_size=128"]
    half = parameters(sources.describe(compose(overrides).teacher)) // 2
    sprig(monkeypatch, *overrides, f"bin.center={half}")
    printed = capsys.readouterr().out
    assert "FLOPs" in printed and f"{2 * half:,}"[:6] in printed


OWN_TEACHER = ["teacher=local", "data=sotu"]
# Those that need a user's own model: tests/stages/test_iterated.py and tests/stages/test_product.py.
OWN = ("iterated", "product")
PRESETS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml") if path.stem not in OWN)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_planned(monkeypatch, capsys, tmp_path, preset):
    sprig(monkeypatch, f"experiment={preset}", f"outputs={tmp_path}", "plan=true")
    assert "What this run would do" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_every_option_composes(options):
    chosen = {option.partition("=")[0] for option in options}
    needed = [word for option in options for word in NEEDED.get(option, []) if word.partition("=")[0] not in chosen]
    config = compose([*options, "distill.tokens=1_000_000", *needed])
    assert to_plain(config) == OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)


def test_a_default_text_is_never_taken_for_a_teacher_of_ones_own():
    own = ["teacher=local", "teacher.source=hf", "teacher.path=x", "distill.tokens=1k"]
    with pytest.raises(SprigError, match=r"^teacher=local names a teacher of your own, but no text"):
        compose(own)
    assert compose([*own, "data=sotu"]).data.name == "sotu"


def test_the_four_choices_of_the_mission_are_on_the_command_line():
    config = compose(
        ["teacher=smollm2-135m", "bin=smollm2-half", "search.mutation.gene_rate=0.3", "distill.tokens=50_000"]
    )
    assert (config.teacher.name, config.bin.center, config.search.mutation.gene_rate, config.distill.tokens) == (
        "smollm2-135m",
        67_257_504,
        0.3,
        50_000,
    )
