"""Stage sample on the smoke run."""

import shutil
from pathlib import Path

import pytest
import torch
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.models.tokenizer import Tokenizer
from pipeline.on_request import sample as stage
from pipeline.stages import graph
from pipeline.stages.context import Context


@pytest.fixture(scope="module")
def run(smoke_outputs) -> Path:
    return smoke_outputs / "smoke" / "latest"


def sample(run: Path, prompt: str, *overrides: str) -> None:
    pipeline.run(pipeline.compose([f"run={run}", "stages=[sample]", f"prompt={prompt}", *overrides]))


@torch.no_grad()
def greedily(folder: Path, prompt: str, count: int) -> str:
    model, words = checkpoint.load(folder, "cpu").eval(), Tokenizer(folder)
    ids = words.encode(prompt)
    start = len(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1, : words.vocab_size].argmax()))
    return words.decode(ids[start:])


def sampled(config: pipeline.config.Config) -> dict[str, str]:
    context = Context(config, print)
    return stage.run(context, graph.build(context))


def test_every_model_of_the_run_continues_the_text(run, capsys):
    """A text whose commas, colons and brackets are grammar to nobody."""
    prompt, before = "We, the people: [all] {of us} 'n more", sorted(run.parents[1].glob("artifacts/*/*"))
    config = pipeline.compose([f"run={run}", "stages=[sample]", f"prompt={prompt}", "sample.tokens=6"])
    continued = sampled(config)
    assert list(continued) == ["teacher", "student", "control"]
    for name, text in continued.items():
        folder = run / "artifacts" / (name if name == "teacher" else f"distilled_{name}")
        assert text == greedily(folder, prompt, 6)
    printed = capsys.readouterr().out
    assert printed.startswith(prompt) and all(name in printed for name in continued)
    assert sorted(run.parents[1].glob("artifacts/*/*")) == before, "a sample is no part of a run"
    assert pipeline.compose([f"run={run}"]).prompt is None


@pytest.mark.parametrize("length", [128, 129, 200])
def test_a_prompt_beyond_the_context_is_said(run, caplog, length):
    """The smoke preset's teacher reads 128 bytes."""
    sample(run, "a" * length, "sample.tokens=1")
    said = [line for line in caplog.messages if "their context" in line]
    cut = [f"prompt has {length} tokens, but the models read only the last 128, their context."]
    assert said == (cut if length > 128 else [])


def test_the_reports_prompt_beyond_the_context_is_said(smoke_outputs, tmp_path, caplog):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    pipeline.run(smoke(outputs, f"evaluate.prompt={'a' * 200}", "stages=[evaluate]"))
    assert "evaluate.prompt has 200 tokens, but the models read only the last 128, their context." in caplog.messages


def test_a_long_word_is_shown_in_full(run, capsys, monkeypatch):
    monkeypatch.setattr(stage, "continue_text", lambda *_: list(b"0123456789" * 30))
    sample(run, "We")
    printed = capsys.readouterr().out
    assert "…" not in printed and sum(map(printed.count, "0123456789")) >= 3 * 300


def test_draws_are_seeded(run):
    continued = []
    for seed in (1, 1, 2):
        overrides = ["prompt=We", "sample.temperature=1.5", "sample.tokens=20", f"sample.seed={seed}"]
        config = pipeline.compose([f"run={run}", "stages=[sample]", *overrides])
        continued.append(sampled(config))
    assert continued[0] == continued[1] != continued[2]


def test_a_run_without_a_finished_student(smoke_outputs, tmp_path):
    outputs = tmp_path / "outputs"
    shutil.copytree(smoke_outputs, outputs, symlinks=True)
    shutil.rmtree((outputs / "smoke/latest/artifacts/distilled_student").resolve())
    with pytest.raises(SprigError, match=r"Stage distill was never run .* stages=\[distill"):
        sample(outputs / "smoke/latest", "We")


def test_a_sample_needs_a_text(tmp_path):
    for prompt in ([], ["prompt= "]):
        with pytest.raises(
            SprigError, match=r'stages names sample, but prompt is .*: give the text to continue, prompt="'
        ):
            smoke(tmp_path, "stages=[sample]", *prompt)
