"""The Python API on a tiny teacher in memory, and the page that shows it."""

import copy
import inspect
import json
import math
import re
import runpy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from litgpt import GPT
from runs import smoke
from transformers import AutoModelForCausalLM

import pipeline
from pipeline import api_settings
from pipeline.config import DistillConfig, Precision, SearchConfig
from pipeline.models.perplexity import mean_nll
from pipeline.models.precision import resolve_precision

ROOT = Path(__file__).parent.parent
CELL = ["experiment=lab/p1-bins", "search=importance", "init=searched", "recover=off", "seed=1"]


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
    precision = resolve_precision(Precision.auto, torch.device("cpu"))
    expected = pytest.approx(math.exp(mean_nll(student, blocks, 8, precision)), rel=1e-6)
    assert found.fitness == expected and pipeline.perplexity(student, blocks) == expected


def test_a_limit_in_flops_pays_for_the_teacher_that_a_fitness_asks(teacher, blocks):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000)
    limited = {"strategy": "random", "evaluations": 9, "limit": {"flops": 9 * 8 * 32 * 2 * 50_000}}
    cheap, dear = (pipeline.find(teacher.model, space, blocks, fitness=by, **limited) for by in ("perplexity", "kl"))
    assert 1 <= dear.evaluated < cheap.evaluated < 9


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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t, b: pipeline.perplexity(t, b), "model must be a litgpt GPT, but is a Teacher: give its model"),
        (lambda t, b: pipeline.perplexity(t.model, b[:0]), r"but are torch.int64 of shape \(0, 33\)"),
        (lambda t, b: pipeline.importance(t.model, b[:, :1]), r"at least one block of two tokens, but are .*\(8, 1\)"),
        (lambda t, b: pipeline.importance(t.model, b.float()), "must be an int64 tensor"),
        (lambda t, b: pipeline.perplexity(t.model, b.tolist()), "but are a list"),
        (lambda t, b: pipeline.perplexity(t.model, b + 300), r"the token \d+, but tiny-random has 0..256"),
        (lambda t, b: pipeline.SearchSpace(t, 70_000, 90_000), "give its model, teacher.model"),
        (lambda t, b: pipeline.SearchSpace(t.model, 7.5, 90_000), "bin.low: Value '7.5' is not a count"),
        (lambda t, b: pipeline.SearchSpace(t.model, 1, 90_000, count="all"), "bin.count: Invalid value 'all'"),
        (lambda t, b: pipeline.SearchSpace(t.model, 1, 90_000, vocabulary=9), "space.vocabulary has no effect on"),
        (lambda t, b: pipeline.SearchSpace(t.model, 1, 90_000, layers="rank"), "needs an ordering: give that of imp"),
        (lambda t, b: pipeline.SearchSpace(t.model, 1, 90_000, hold="n_embd"), "space.hold: n_embd must be a list,"),
        (lambda t, b: pipeline.perplexity(t.model, b.to_sparse()), "a dense tensor with values, but are torch.sparse"),
        (lambda t, b: pipeline.perplexity(t.model, b.to("meta")), "a dense tensor with values, .* on meta"),
        (lambda t, b: pipeline.perplexity(copy.deepcopy(t.model).to("meta"), b), "model is on the meta device"),
        (lambda t, b: pipeline.find(t.model, None, b), "space must be a SearchSpace.* but is a NoneType"),
        (lambda t, b: pipeline.extract(t.model, None), "found must be what find returns, but is a NoneType"),
        (lambda t, b: find(t, b, seed=-1), "seed=-1 must lie in"),
        (lambda t, b: find(t, b, rerank={"candidates": 3}), "search.rerank has no effect on models in memory"),
        (lambda t, b: find(t, b, strategy="given"), "search.strategy=given has no .*: leave it out, or set"),
        (lambda t, b: find(t, b, strategy="given", path="/x"), "search.strategy=given has no effect on"),
        (lambda t, b: find(t, b, fitness=max), "search.fitness: .*a class or function by its import path"),
        (lambda t, b: distill(t, b), "must be a split of a text, such as text.train, but are a Tensor"),
        (lambda t, b: distill(t, b, lambda each: each.double()), "torch.float64, not torch.float32: give student.fl"),
        (lambda t, b: distill(t, b, lambda each: each.requires_grad_(False)), "is frozen, but all weights must be"),
        (lambda t, b: pipeline.export(t.model, t.model, "x", b), "what load_teacher returns, .* but is a GPT"),
        (lambda t, b: pipeline.export(t.model, t, "x", b, form="hf"), "export.form: Invalid value 'hf'"),
        (lambda t, b: pipeline.load_text("sotu", t, block_size=-1), "data.block_size=-1 must lie in"),
        (lambda t, b: pipeline.load_text("sotu", t, block_size=129), "data.block_size=129 exceeds .* tiny-random, 128"),
        (lambda t, b: pipeline.load_text("./no/text", t), "The data ./no/text does not exist"),
        (lambda t, b: pipeline.load_teacher("tiny-random", device="gpu"), "device=gpu cannot be used here"),
        (lambda t, b: pipeline.load_teacher("tiny-random", device="meta"), "device=meta cannot .*holds no values"),
        (lambda t, b: pipeline.load_teacher("tiny-random", device=None), "device=None cannot be used here"),
        (lambda t, b: pipeline.load_teacher(None), "must be a name of conf/teacher or a path, but is a NoneType"),
        (lambda t, b: pipeline.load_teacher(Path("nowhere")), "The teacher nowhere does not exist"),
        (lambda t, b: pipeline.load_teacher("a\0b"), "teacher='a.*b' is not valid UTF-8 text"),
        (lambda t, b: find(t, b, stratgy="random"), "key search.stratgy: did you mean search.strategy"),
        (lambda t, b: find(t, b, rerank={"tokns": 3}), "search.rerank has no effect on models in memory"),
        (lambda t, b: find(t, b, limit={"tokns": 3}), "key search.limit.tokns: did you mean search.li"),
        (lambda t, b: pipeline.compose("experiment=smoke"), r"write compose\(\['experiment=smoke'\]\)"),
        (lambda t, b: pipeline.compose(None), "compose takes a list, such as .*, not a NoneType"),
        (lambda t, b: pipeline.compose({"seed": 1}), "compose takes a list, such as .*, not a dict"),
        (lambda t, b: pipeline.compose(["experiment=lab/p1-bins"]), "a sweep over search, init, .* one configuration"),
        (lambda t, b: pipeline.compose(CELL), "a sweep over bin, .* such as bin=lab-quarter, or"),
        (lambda t, b: pipeline.run(["experiment=smoke"]), "run takes what compose returns"),
        (lambda t, b: pipeline.load_teacher("tiny-random", outputs=None), "outputs must be a path, but is a NoneType"),
        (lambda t, b: pipeline.export(t.model, t, b"x", b), "to must be a path, but is a bytes"),
        (lambda t, b: pipeline.export(t.model, t, "", b), "to is empty: give the path of a folder"),
        (lambda t, b: pipeline.distill(t.model, None, None, b, 64, log=None), "log must be a function of a line"),
        (lambda t, b: member("contains", t, None), "must be a sub-network, such as found.subnetwork, but is a NoneT"),
        (lambda t, b: member("sample", t, 0), r"such as numpy.random.default_rng\(0\), but is a int"),
        (lambda t, b: member("crossover", t, None, None, np.random.default_rng(0)), "A member must be a sub"),
        (lambda t, b: member("mutate", t, beyond(t), np.random.default_rng(0), 0.5, 0.5), "not in this space and its"),
        (lambda t, b: member("crossover", t, beyond(t), beyond(t), np.random.default_rng(0)), "not in this space and"),
        (lambda t, b: mutated(t, 2.0, 0), "gene_rate=2.0 and global_rate=0 must be numbers in 0..1"),
        (lambda t, b: mutated(t, 0, float("nan")), "global_rate=nan must be numbers in 0..1"),
    ],
)  # fmt: skip
def test_wrong_arguments_give_one_sentence(teacher, blocks, call, said):
    with pytest.raises(pipeline.SprigError, match=said) as error:
        call(teacher, blocks)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["file/x", "/proc/x", "a" * 300])
@pytest.mark.parametrize(
    "call",
    [
        lambda place, t, b: pipeline.load_teacher("tiny-random", place),
        lambda place, t, b: pipeline.load_teacher(place),
        lambda place, t, b: pipeline.load_text("sotu", t, 32, place),
        lambda place, t, b: pipeline.load_text(str(place), t, 32),
        lambda place, t, b: pipeline.export(t.model, t, place, b),
        lambda place, t, b: pipeline.run(pipeline.compose(["experiment=smoke", f"outputs={place}"])),
        lambda place, t, b: pipeline.compose([f"run={place}"]),
    ],
    ids=["outputs", "teacher", "outputs-of-text", "text", "export", "run", "compose"],
)
def test_a_place_that_is_out_of_reach_gives_one_sentence_with_its_name(teacher, blocks, tmp_path, call, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(pipeline.SprigError) as error:
        call(tmp_path / place, teacher, blocks)
    assert str(tmp_path / place) in str(error.value)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("smoke/latest", "a run that `sprig rm` removes"),
        ("smoke/latest/x", "a run that `sprig rm` removes"),
        ("artifacts", "for artifacts alone"),
        ("artifacts/prepare/x", "for artifacts alone"),
    ],
)
def test_nothing_is_put_in_a_run_or_a_store(teacher, blocks, smoke_outputs, place, said):
    to = smoke_outputs / place
    for call in (
        lambda: pipeline.export(teacher.model, teacher, to / "model", blocks),
        lambda: pipeline.load_teacher("tiny-random", to),
        lambda: pipeline.run(pipeline.compose(["experiment=smoke", f"outputs={to}"])),
    ):
        with pytest.raises(pipeline.SprigError, match=f"(export.to|outputs)={to}.* lies in .*{said}"):
            call()


@pytest.mark.parametrize("words", [[*CELL, "bin=lab-half"], ["experiment=lab/p1-bins", "hydra.mode=RUN"]])
def test_one_job_of_a_sweep_is_a_configuration(words):
    assert pipeline.compose(words).preset == "lab-p1-bins"


def test_a_sweep_without_axes_is_one_configuration():
    assert pipeline.compose(["experiment=smoke", "hydra.mode=MULTIRUN"]).preset == "smoke"


def test_an_axis_that_is_left_open_is_named_with_one_value(tmp_path):
    (tmp_path / "experiment").mkdir()
    lines = ["# @package _global_", "defaults: [smoke]", "preset: mine", "hydra:", "  mode: MULTIRUN"]
    lines += ["  sweeper:", "    params: {seed: 'range(3,6)'}"]
    (tmp_path / "experiment/mine.yaml").write_text("\n".join(lines))
    with pytest.raises(pipeline.SprigError, match=r"a sweep over seed, .* such as seed=3, or run the sweep"):
        pipeline.compose([f"hydra.searchpath=[{tmp_path}]", "experiment=mine"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP", "bias": True}, "family is llama, but .* gpt"),
        ({"vocab_size": 250}, "vocab_size is 257, but that of teacher tiny-random is 250"),
        ({"name": "another"}, "name is tiny-random, but that of teacher another is another"),
    ],
)
def test_a_student_is_exported_with_its_own_teacher_alone(teacher, blocks, other, said, tmp_path):
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000)
    student = pipeline.extract(teacher.model, pipeline.find(teacher.model, space, blocks, strategy="uniform"))
    another = replace(teacher, model=GPT(replace(teacher.model.config, **other)))
    with pytest.raises(pipeline.SprigError, match=said):
        pipeline.export(student, another, tmp_path / "model", blocks % 250)
    assert not (tmp_path / "model").exists()
    pipeline.export(student, teacher, tmp_path / "model", blocks)


def find(teacher, blocks, **settings):
    settings = {"strategy": "random", "evaluations": 2} | settings
    return pipeline.find(teacher.model, pipeline.SearchSpace(teacher.model, 70_000, 90_000), blocks, **settings)


def member(name, teacher, *arguments):
    return getattr(pipeline.SearchSpace(teacher.model, 70_000, 90_000), name)(*arguments)


def beyond(teacher):
    """A sub-network of another space of the teacher, whose MLPs have sizes that the usual one does not have."""
    space = pipeline.SearchSpace(teacher.model, 70_000, 90_000, step={"intermediate_size": 8})
    rng = np.random.default_rng(0)
    drawn = (space.sample(rng) for _ in range(50))
    return next(sub for sub in drawn if any(gene.intermediate_size % 16 for gene in sub.genes))


def mutated(teacher, *rates):
    space, rng = pipeline.SearchSpace(teacher.model, 70_000, 90_000), np.random.default_rng(0)
    return space.mutate(space.sample(rng), rng, *rates)


def distill(teacher, blocks, change=lambda student: student):
    return pipeline.distill(
        teacher.model, change(pipeline.extract(teacher.model, find(teacher, blocks))), blocks, blocks, 64
    )


def test_what_is_found_in_one_teacher_is_not_cut_out_of_another(teacher, blocks, tmp_path):
    other, found = pipeline.load_teacher("tiny-deep", tmp_path).model, find(teacher, blocks)
    for call in (
        lambda: pipeline.extract(other, found),
        lambda: pipeline.recover(other, pipeline.extract(teacher.model, found), found, blocks),
        lambda: pipeline.find(other, pipeline.SearchSpace(teacher.model, 70_000, 90_000), blocks),
        lambda: pipeline.SearchSpace(teacher.model, 1, 90_000, pipeline.importance(other, blocks)),
    ):
        with pytest.raises(pipeline.SprigError, match="is of another teacher"):
            call()
    with pytest.raises(pipeline.SprigError, match=r"The student has 191,040 parameters, but .* found has"):
        pipeline.recover(teacher.model, teacher.model, found, blocks)
    with pytest.raises(pipeline.SprigError, match=r"torch.bfloat16, not torch.float32: give student.float"):
        pipeline.recover(teacher.model, pipeline.extract(teacher.model, found).bfloat16(), found, blocks)


def test_what_is_found_is_not_cut_out_of_another_teacher_of_the_same_sizes(teacher, blocks):
    other = copy.deepcopy(teacher.model)
    other.config.name = "other"
    with pytest.raises(pipeline.SprigError, match="is of another teacher, tiny-random: search other with find"):
        pipeline.extract(other, find(teacher, blocks))


def test_keys_that_are_not_keywords_of_a_search_are_listed():
    taken = {each.name for each in fields(SearchConfig)} & inspect.signature(pipeline.find).parameters.keys()
    refused = {key.partition("=")[0] for key in api_settings.OF_RUNS["search"]} | taken
    [listed] = re.findall(r"Four keys are not keywords:(.*)", pipeline.find.__doc__, re.DOTALL)
    assert refused == {key for key in re.findall(r"\w+", listed) if hasattr(SearchConfig(), key)}


def test_keys_of_a_run_are_refused_in_a_distillation_and_listed(teacher, blocks):
    [listed] = re.findall(r"temperature=2\.0; (.*) are\s+for runs alone", pipeline.distill.__doc__)
    assert re.split(", | and ", listed) == list(api_settings.OF_RUNS["distill"])
    for key in api_settings.OF_RUNS["distill"]:
        with pytest.raises(pipeline.SprigError, match=f"distill.{key} has no effect on models in memory"):
            api_settings.settings(DistillConfig, "distill", {"tokens": 64, key: None})


def test_one_value_for_a_section_is_refused():
    with pytest.raises(pipeline.SprigError, match=r"schedule=wsd sets no value, .*set its keys, such as distill\.sch"):
        api_settings.settings(DistillConfig, "distill", {"tokens": 64, "schedule": "wsd"})


def test_keywords_that_nothing_reads_are_named(caplog):
    api_settings.settings(SearchConfig, "search", {"strategy": "random", "population": 7, "evaluations": 9})
    api_settings.settings(DistillConfig, "distill", {"tokens": 64, "schedule": {"kind": "cosine", "decay": 0.1}})
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "search.population=7 has no effect",
        "distill.schedule.decay=0.1 has no effect",
    ]


def test_a_text_is_not_read_again_and_again_unasked(text, tmp_path):
    teacher = pipeline.load_teacher("tiny-random", tmp_path)
    blocks = pipeline.load_text(str(text), teacher, 32, tmp_path)
    student = pipeline.extract(teacher.model, find(teacher, blocks.validation.evenly(4)))
    tokens = 4 * len(blocks.train) * 32 + 1
    with pytest.raises(
        pipeline.SprigError,
        match=rf"tokens={tokens:,} would .* tokens of blocks 4\.0 times, .*repeat=True",
    ):
        pipeline.distill(teacher.model, student, blocks.train, blocks.validation.evenly(2), tokens)
    with pytest.raises(pipeline.SprigError, match=r"0 blocks were requested from the train split"):
        blocks.train.evenly(0)


def test_a_file_is_the_teacher_and_not_a_name(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(pipeline.SprigError, match=r"model\.gguf"):
        pipeline.load_teacher(tmp_path / "model.gguf", tmp_path)


def test_a_litgpt_folder_is_a_teacher(teacher, blocks, tmp_path):
    again = pipeline.load_teacher(teacher.folder, tmp_path)
    assert pipeline.perplexity(again.model, blocks) == pipeline.perplexity(teacher.model, blocks)


def test_numpys_numbers_are_numbers(teacher, blocks):
    found = find(teacher, blocks, evaluations=np.int64(2), seed=np.int64(3))
    assert found.evaluated == 2 and found.subnetwork == find(teacher, blocks, seed=3).subnetwork


def test_a_configuration_that_was_changed_is_checked_again(tmp_path):
    config = pipeline.compose(["experiment=smoke", "plan=true", f"outputs={tmp_path}", "prompt=a ${b} c"])
    assert pipeline.config.checked(config) == config, "its texts and paths stay"
    for section, key, value, said in (
        (config.distill, "lr", -1.0, r"distill\.lr=-1\.0 must lie in"),
        (config.distill, "lr", "fast", r"distill\.lr: Value 'fast'"),
        (config.search, "populaton", 5, r"no configuration key search\.populaton: did you mean search\.population\?"),
    ):
        before = vars(section).copy()
        setattr(section, key, value)
        with pytest.raises(pipeline.SprigError, match=said):
            pipeline.run(config)
        vars(section).clear()
        vars(section).update(before)


def test_activations_that_are_not_finite_rank_nothing(teacher, blocks):
    broken = copy.deepcopy(teacher.model)
    broken.transformer.h[0].norm_1.weight[0] = 3e38
    with pytest.raises(pipeline.SprigError, match="activations are not finite and cannot be ranked"):
        pipeline.importance(broken, blocks)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_step_works_without_gradients_around_it(blocks, text, tmp_path, mode):
    with mode():
        teacher = pipeline.load_teacher("tiny-random", tmp_path)
        given = pipeline.load_text(str(text), teacher, 32, tmp_path)
        model, held_out = teacher.model, given.validation.evenly(2)
        ordering = pipeline.importance(model, blocks)
        space = pipeline.SearchSpace(model, 70_000, 190_000, ordering, hold=["n_embd", "head_size"])
        found = pipeline.find(model, space, given.calibration.evenly(2), strategy="allocation")
        student = pipeline.extract(model, found)
        pipeline.recover(model, student, found, blocks)
        before, after = pipeline.distill(model, student, given.train, held_out, 256, validations=1, lr=1e-3)
        assert before[1] != after[1] == pytest.approx(math.log(pipeline.perplexity(student, held_out)), rel=1e-6)
        pipeline.export(student, teacher, tmp_path / "model", held_out)
    pipeline.recover(model, student, found, blocks)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_run_needs_no_gradients_around_it(smoke_outputs, tmp_path, mode):
    with mode():
        made = pipeline.run(smoke(tmp_path))
    (usual,) = (json.loads(file.read_text()) for file in smoke_outputs.glob("smoke/latest/summary.json"))
    assert made["student"]["final_perplexity"] == usual["student"]["final_perplexity"]


def test_a_model_that_cannot_be_trained_is_refused(teacher, blocks):
    with torch.inference_mode():
        copied = copy.deepcopy(teacher.model)
    with pytest.raises(pipeline.SprigError, match=r"made under torch.inference_mode\(\), .* copy.deepcopy\(model\)"):
        pipeline.importance(copied, blocks)
    pipeline.importance(copy.deepcopy(copied), blocks)


def test_weights_that_are_not_finite_are_named(teacher, blocks, tmp_path):
    found = find(teacher, blocks)
    student, broken = pipeline.extract(teacher.model, found), copy.deepcopy(teacher.model)
    for model in (student, broken):
        with torch.no_grad():
            model.transformer.h[1].norm_1.weight[3] = math.nan
    for call in (
        lambda: pipeline.importance(broken, blocks),
        lambda: pipeline.SearchSpace(broken, 70_000, 90_000),
        lambda: pipeline.extract(broken, found),
        lambda: pipeline.recover(teacher.model, student, found, blocks),
        lambda: pipeline.distill(teacher.model, student, blocks, blocks, 64),
        lambda: pipeline.perplexity(student, blocks),
        lambda: pipeline.export(student, teacher, tmp_path / "model", blocks),
    ):
        with pytest.raises(pipeline.SprigError, match=r"The \w+'s transformer.h.1.norm_1.weight holds .*\(nan, nan\)"):
            call()


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
