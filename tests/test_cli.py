"""The command line: what it accepts, and that bad input gets one sentence with the cure and exit code 1."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __main__ as entrypoint
from pipeline import compose

ROOT = Path(__file__).parent.parent
SMOKE = ["experiment=smoke"]
TEACHERS = sorted(path.stem for path in (ROOT / "conf/teacher").glob("*.yaml"))


def sprig(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["sprig", *arguments])
    entrypoint.main()


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
        ("distill.tokns=5", "no configuration key distill.tokns: did you mean tokens?"),
        ("nonsense=5", "no configuration key nonsense"),
        ("teacher=nonsense", "Could not find 'teacher/nonsense'"),
        ("distill.lr=fast", "distill.lr=fast Value 'fast' of type 'str' could not be converted to Float"),
        ("space.layers=some", "expected one of [prefix, rank, subset]"),
        ("stages=[search,nonsense]", "stages names 'nonsense'; the stages are prepare, order"),
        ("search.mutation.gene_rate=1.5", "search.mutation.gene_rate=1.5 must lie in 0..1"),
        ("search.parents=100", "search.parents=100 exceeds search.population=6"),
        ("bin.low=900_000 bin.high=1_000_000", "cannot be reached from teacher tiny-random (191,040)"),
        ("bin.low=90_000 bin.high=80_000", "bin.low=90,000 exceeds bin.high=80,000"),
        ("data.block_size=4096", "data.block_size=4096 exceeds the context of teacher tiny-random, 128"),
        ("distill.tokens=100", "distill.tokens=100 is below one batch of 4 blocks x 32 = 128 tokens"),
        ("distill.global_batch=5", "distill.global_batch=5, distill.micro_batch=2"),
        ("search=given", "search.strategy=given with search.path=None: `given` needs a path"),
        ("search=given search.path=/nowhere.json", "search.path=/nowhere.json cannot be read"),
        ("run=/nowhere", "run=/nowhere is no run folder"),
        ("data.path=nowhere", "nowhere"),
        ("space.layers=rank ordering=none", "space.layers=rank needs to know which layers matter"),
        ("teacher=smollm2-135m teacher.path=nowhere.gguf", "nowhere.gguf"),
        ("precision=bf16 deepspeed=zero0", "precision=bf16"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(monkeypatch, tmp_path, override, said):
    assert said in refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", *override.split())


def test_a_missing_token_budget_is_asked_for(monkeypatch):
    assert "distill.tokens has no value" in refused(monkeypatch, "teacher=smollm2-135m")


def test_more_gpus_than_there_are(monkeypatch, tmp_path):
    assert "device=cuda" in refused(monkeypatch, *SMOKE, f"outputs={tmp_path}", "device=cuda")


@pytest.mark.parametrize("teacher", TEACHERS)
def test_every_teacher_is_planned_without_its_weights(monkeypatch, capsys, teacher):
    """A bin of half the teacher's size, whatever that is."""
    from pipeline.models.sources import describe
    from pipeline.subnetwork.counting import parameters

    overrides = [f"teacher={teacher}", "plan=true", "distill.tokens=1_000_000", "data.block_size=128"]
    half = parameters(describe(compose(overrides).teacher)) // 2
    sprig(monkeypatch, *overrides, f"bin.center={half}")
    printed = capsys.readouterr().out
    assert "FLOPs" in printed and f"{2 * half:,}"[:6] in printed


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")))
def test_every_preset_is_planned(monkeypatch, capsys, tmp_path, preset):
    sprig(monkeypatch, f"experiment={preset}", f"outputs={tmp_path}", "plan=true")
    assert "What this run would do" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


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


def test_help_is_a_page_for_newcomers():
    printed = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    ).stdout
    for word in ("experiment=quickstart", "stages=", "plan=true", "teacher=", "smollm2-135m", "bin=", "--multirun"):
        assert word in printed
