"""The Python API on a tiny teacher in memory, and the page that shows it."""

import json
import math
import runpy
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


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A folder of sixty short documents."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(60):
        words = " ".join(f"word{(number * 7 + each) % 50}" for each in range(300))
        (folder / f"{number}.txt").write_text(words)
    return folder


@pytest.fixture
def blocks():
    return torch.randint(0, 257, (8, 33), generator=torch.Generator().manual_seed(0))


def test_names_are_few_and_all_there():
    names = set(pipeline.__all__) - {"SprigError"}
    assert len(names) <= 12 and all(callable(getattr(pipeline, name)) for name in names)


def test_a_cut_of_a_model_in_memory_lies_in_the_bin_and_keeps_the_fitness(teacher, blocks):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000)
    found = pipeline.find(teacher.model, space, blocks, strategy="random", evaluations=5)
    student = pipeline.extract(teacher.model, found)
    assert 70_000 <= sum(each.numel() for each in set(student.parameters())) <= 90_000
    expected = pytest.approx(math.exp(mean_nll(student, blocks, 8, "fp32")), rel=1e-6)
    assert found.fitness == expected and pipeline.perplexity(student, blocks) == expected


def test_an_allocation_is_found_and_starts_an_evolution(teacher, blocks):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000, hold=["n_embd", "head_size"])
    allocated = pipeline.find(teacher.model, space, blocks, strategy="allocation")
    assert space.contains(allocated.subnetwork) and allocated.evaluated == 1
    few = {"population": 2, "parents": 1, "generations": 0}
    started = pipeline.find(teacher.model, space, blocks, strategy="evolution", start=["allocation"], **few)
    assert started.fitness <= allocated.fitness and started.evaluated == 2


def test_wrong_settings_give_the_sentence_of_the_command_line(teacher, blocks):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000)
    with pytest.raises(pipeline.SprigError, match=r"search\.population=0"):
        pipeline.find(teacher.model, space, blocks, population=0)
    with pytest.raises(pipeline.SprigError, match=r"search\.evaluations=0 must"):
        pipeline.find(teacher.model, space, blocks, strategy="random", evaluations=0)
    with pytest.raises(pipeline.SprigError, match="populaton"):
        pipeline.find(teacher.model, space, blocks, populaton=5)


def test_the_one_page_runs_and_its_student_loads_in_transformers(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = runpy.run_path(str(ROOT / "examples/one_page.py"))
    perplexities = page["main"]("tiny-random", tmp_path / "student", str(text))
    assert list(perplexities) == ["teacher", "cut", "recovered", "distilled"]
    assert (
        perplexities["recovered"] != perplexities["cut"]
    )  # refitted; a random teacher's numbers mean no more than that
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student", trust_remote_code=True)
    assert sum(each.numel() for each in loaded.parameters()) > 0
    assert "distilled" in capsys.readouterr().out


def test_the_one_page_is_a_page():
    assert len((ROOT / "examples/one_page.py").read_text().splitlines()) <= 120


def test_the_notebook_runs_and_shows_what_it_says(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads((ROOT / "examples/notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code[0] = code[0].replace('"smollm2-135m", "sotu"', f'"tiny-random", {str(text)!r}')
    names: dict = {}
    for cell in code:
        exec(cell, names)
        if "axes.bar" in cell:
            heights = [bar.get_height() for bar in names["axes"].patches]
            assert heights == [gene.intermediate_size for gene in names["found"].subnetwork.genes]
    [line] = names["axes"].get_lines()
    assert list(zip(*line.get_data(), strict=True)) == names["curve"] and names["curve"][0][0] == 0
    assert names["curve"][-1][1] == pytest.approx(math.log(names["perplexities"]["distilled"]), rel=1e-6)
