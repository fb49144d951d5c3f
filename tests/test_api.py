"""The Python API on a tiny teacher in memory, and the page that shows it."""

import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import pipeline
from pipeline.models.perplexity import mean_nll

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return pipeline.load_teacher("tiny-random", tmp_path_factory.mktemp("api"))


@pytest.fixture
def blocks():
    return torch.randint(0, 257, (8, 33), generator=torch.Generator().manual_seed(0))


def test_names_are_few_and_all_there():
    names = set(pipeline.__all__) - {"SprigError"}
    assert len(names) <= 12 and all(callable(getattr(pipeline, name)) for name in names)


def test_importing_the_package_imports_no_torch():
    code = "import sys, pipeline; pipeline.compose; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_cut_of_a_model_in_memory_lies_in_the_bin_and_keeps_the_fitness(teacher, blocks):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000)
    found = pipeline.find(teacher.model, space, blocks, strategy="random", evaluations=5)
    student = pipeline.extract(teacher.model, found)
    assert 70_000 <= sum(each.numel() for each in set(student.parameters())) <= 90_000
    expected = pytest.approx(math.exp(mean_nll(student, blocks, 8, "fp32")), rel=1e-6)
    assert found.fitness == expected and pipeline.perplexity(student, blocks) == expected


def test_wrong_settings_give_the_sentence_of_the_command_line(teacher, blocks):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000)
    with pytest.raises(pipeline.SprigError, match=r"search\.population=0"):
        pipeline.find(teacher.model, space, blocks, population=0)
    with pytest.raises(pipeline.SprigError, match="populaton"):
        pipeline.find(teacher.model, space, blocks, populaton=5)


def test_the_one_page_runs_and_its_student_loads_in_transformers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    for number in range(60):
        words = " ".join(f"word{(number * 7 + each) % 50}" for each in range(300))
        (tmp_path / "text" / f"{number}.txt").write_text(words)
    page = runpy.run_path(str(ROOT / "examples/one_page.py"))
    perplexities = page["main"]("tiny-random", tmp_path / "student", str(tmp_path / "text"))
    assert list(perplexities) == ["teacher", "cut", "recovered", "distilled"]
    assert perplexities["recovered"] <= perplexities["cut"]  # kept only where it helps
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student", trust_remote_code=True)
    assert sum(each.numel() for each in loaded.parameters()) > 0
    assert "distilled" in capsys.readouterr().out


def test_the_one_page_is_a_page():
    assert len((ROOT / "examples/one_page.py").read_text().splitlines()) <= 120
