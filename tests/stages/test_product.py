"""experiment=product: from a model and a text in folders to an exported model, at the size that was asked for."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from runs import changed, smoke, write_llama, write_texts
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import pipeline
from pipeline.config import Device
from pipeline.errors import SprigError
from pipeline.plan import after, costs, outlook
from pipeline.plan.table import table
from pipeline.stages import budget, graph
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.value import whole

CENTER = 150_000


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A user's folder: `llama`, a model of 291,776 parameters, and `texts`."""
    folder = tmp_path_factory.mktemp("mine")
    write_llama(folder / "llama")
    write_texts(folder / "texts")
    return folder


def product(mine: Path, *overrides: str) -> pipeline.config.Config:
    words = [
        "experiment=product",
        "teacher=local",
        "teacher.source=hf",
        f"teacher.path={mine / 'llama'}",
        "data=text",
        f"data.path={mine / 'texts'}",
        f"bin.center={CENTER // 1000}k",
        "data.block_size=32",
        "distill.tokens=2k",
        "recover.tokens=1k",
        "precision=fp32",
        f"outputs={mine / 'outputs'}",
    ]
    return pipeline.compose(changed(words, *overrides))


def test_one_command_leads_from_nothing_to_a_model_of_the_size_that_was_asked_for(mine, capsys, caplog):
    config = product(mine, f"export.to={mine / 'exported'}")
    with caplog.at_level("INFO", "sprig"):
        pipeline.run(config)
    said = [record.getMessage() for record in caplog.records]
    assert "10 steps, 0 of them cached: prepare, order, search, extract, recover, distill, evaluate, report" in said
    places = [line.split()[0] for line in said if line.endswith(": starting")]
    assert places == [f"{number}/10" for number in range(1, 11)]
    printed = capsys.readouterr().out
    prompt, *continued = printed[printed.index(config.evaluate.prompt) :].splitlines()[:4]
    assert prompt == config.evaluate.prompt and all(len(line) <= 80 for line in continued)
    assert [line.split(": ...")[0].strip() for line in continued[:2]] == ["teacher", "untrained"]
    commands = re.findall(r"^  sprig (.+)", printed, re.MULTILINE)
    assert len(commands) == 3 and "stages=export" not in printed, "it is exported already"
    for next_one in (f"export: {mine / 'exported'}", f'M.from_pretrained("{mine / "exported"}")', "hf upload OWNER/"):
        assert next_one in printed
    for command in commands:
        assert pipeline.compose(shlex.split(command)).preset == "product"
    model = AutoModelForCausalLM.from_pretrained(mine / "exported")
    assert type(model) is LlamaForCausalLM
    assert abs(model.num_parameters() - CENTER) <= config.bin.tolerance * CENTER
    summary = json.loads((mine / "outputs/product/latest/summary.json").read_text())
    assert summary["teacher"]["name"] == "llama" and summary["data"]["name"] == "texts"
    assert summary["control"] is None and summary["recover"]["tokens"] == 1_000 // 32 * 32
    assert (
        summary["student"]["tokens"] == 2_000 // (32 * config.distill.global_batch) * 32 * config.distill.global_batch
    )


def test_the_header_says_how_long_each_stage_takes(mine, monkeypatch):
    context = Context(product(mine, "device=cpu", f"outputs={mine / 'none'}"), print)
    steps, price = [*graph.build(context).values()], costs.flops(context)
    monkeypatch.setattr(outlook, "matrix_flops", lambda *_: price["distilled_student"] / 3600)
    header = outlook.header(steps, outlook.expected(context, steps, ranks=1))
    minutes = {name: float(words) for name, words in re.findall(r"(\w+) ([\d.]+) (?:min|h)", header)}
    assert minutes["distill"] == 2.0 and "distill 2 h" in header  # at half of that speed
    rate = price["distilled_student"] / 7200
    assert minutes["recover"] == math.ceil(price["recovered_student"] / rate / 60)
    assert "min" in outlook.header(steps, outlook.expected(context, steps, ranks=4)).partition("distill")[2]


def test_a_time_is_in_words_however_long(mine, monkeypatch):
    assert [outlook.duration(each) for each in (60, 5400, 900_000, 8.3e9)] == ["1 min", "1.5 h", "250 h", "263 years"]
    context = Context(product(mine, "device=cpu"), print)
    monkeypatch.setattr(outlook, "matrix_flops", lambda *_: 1.0)
    assert re.fullmatch(r"about [\d,]+ years, at 50% .*; device=cuda plans it for a GPU", dict(table(context))["time"])


def test_the_time_left_follows_the_pace_of_the_run():
    left = outlook.Outlook({"search": 600.0, "distilled_student": 1200.0, "speed": 0.0})
    assert left.left() == ", about 30 min left in all"
    left.finish("speed", 50.0)  # it was not priced, so it says nothing about the rest
    assert left.left() == ", about 30 min left in all"
    left.finish("search", 1800.0)  # three times slower than expected
    assert left.left() == ", about 1 h left in all"
    left.finish("distilled_student", 3000.0)
    assert left.left() == ""


def test_a_bin_alone_decides_on_tokens_and_batch(mine):
    config = pipeline.compose(
        ["experiment=product", f"teacher.path={mine / 'llama'}", f"data.path={mine / 'texts'}", "bin.center=500M"]
    )
    assert config.distill.tokens == 10_000_000_000
    assert config.distill.global_batch * config.data.block_size == 2**19
    assert config.bin.count == "exported" and config.stages == list(pipeline.config.STAGES)


@pytest.mark.parametrize(("tokens", "blocks"), [("2.5B", 256), ("10B", 512), ("40B", 1024), ("1k", 1)])
def test_the_batch_grows_with_the_root_of_the_budget(mine, tokens, blocks):
    config = product(mine, f"distill.tokens={tokens}", "data.block_size=1024")
    assert config.distill.global_batch == blocks


def test_what_is_set_is_not_derived(mine):
    config = product(mine, "distill.global_batch=6", "distill.micro_batch=3", "stages=[prepare]")
    assert (config.distill.global_batch, config.distill.micro_batch, config.stages) == (6, 3, ["prepare"])


def test_the_size_is_asked_for():
    with pytest.raises(SprigError, match=r"^bin\.center has no value"):
        pipeline.compose(["experiment=product", "teacher.path=.", "data.path=."])


def test_only_stock_shapes_can_be_counted_as_exported(mine, capsys):
    with pytest.raises(SprigError, match=r"bin\.count=exported with space\.exportable=any.*or bin\.count=total"):
        pipeline.run(product(mine, "space.exportable=any", "space.sharing=layerwise", "plan=true"))


def test_the_micro_batch_fits_the_memory_and_divides_the_batch(mine, monkeypatch):
    config = product(mine, "distill.global_batch=24", "device=cpu")
    assert config.device == Device.cpu
    context = Context(config, print)

    def chosen(memory: float) -> int:
        monkeypatch.setattr(budget, "device_memory", lambda device: memory)
        return budget.settings(context).micro_batch

    def needed(blocks: int) -> int:  # by the largest student of the bin; the product's bin counts the embedding too
        a, tried = context.architecture, replace(config.distill, micro_batch=blocks)
        size = min(parameters(a), context.bin.high + a.padded_vocab_size * a.n_embd)
        return budget.memory(context, whole(a), tried, size=size).total

    assert chosen(0) == 1
    assert chosen(needed(5) / budget.SHARE) == 4  # 5 would fit, and 4 divide 24
    assert chosen(2**40) == 24


def test_the_plan_names_text_steps_control_time_and_what_leaves(mine):
    context = Context(product(mine, "device=cpu"), print)
    rows = dict(table(context))
    batch = context.config.distill.global_batch * 32
    assert rows["text"].startswith("texts: ") and rows["control"] == "none"
    assert rows["steps"] == f"{2_000 // batch} of {batch} tokens, learning rate 0.0003, cosine"
    assumed = r"about \d+ min, at 50% of this machine's matrix-multiplication speed on 1 x cpu; plan=measure times .*"
    assert re.fullmatch(assumed, rows["time"])
    low, high, form = re.fullmatch(r"([\d,]+) to ([\d,]+) \((\w+)\)", rows["parameters as exported"]).groups()
    assert form == "stock"
    assert all(context.bin.contains(int(each.replace(",", ""))) for each in (low, high))


def test_the_plan_ends_with_the_command_that_runs_it(mine, capsys):
    words = ["experiment=product", "teacher.path=a b", "plan=true", "deepspeed.world_size=8"]
    pipeline.run(product(mine, "plan=true"), words[:3])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "sprig experiment=product 'teacher.path=a b'" in lines
    assert "sprig experiment=product 'teacher.path=a b' plan=measure" in lines
    (_, run), *_ = after.commands(product(mine, words[3]), words)
    assert run == "python -m launchers.torchrun 8 experiment=product 'teacher.path=a b'"


def test_many_processes_are_started_on_several_machines():
    words = ["experiment=smoke", "distill.global_batch=48", "deepspeed.world_size=12", "device=cuda", "plan=true"]
    rows = dict(after.commands(pipeline.compose(words), words))
    slurm = "precision=bf16-mixed hydra/launcher=slurm hydra.launcher.nodes=2 hydra.launcher.gpus_per_job=12"
    run = "experiment=smoke distill.global_batch=48 device=cuda"
    assert rows["run it on one machine with 12 GPUs"] == f"python -m launchers.torchrun 12 {run}"
    assert rows["or on 2 machines of Slurm (docs/cluster.md)"] == f"sprig {run} {slurm}"
    words = [*words, "precision=auto"]
    assert dict(after.commands(pipeline.compose(words), words)).keys() == rows.keys()
    assert dict(after.commands(pipeline.compose(words), words))[list(rows)[1]] == f"sprig {run} {slurm}"


@pytest.mark.parametrize(("launcher", "purpose"), [("slurm", "submit it"), ("local", after.RUN)])
def test_what_a_launcher_starts_is_not_another_dry_run(launcher, purpose):
    words = ["experiment=smoke", f"hydra/launcher={launcher}"]
    found = after.commands(pipeline.compose(["experiment=smoke"]), [*words, "hydra.launcher.dry_run=true"])
    assert found == [(purpose, f"sprig {shlex.join(words)}")]


def test_the_plan_says_what_padding_and_a_control_cost(tmp_path):
    context = Context(smoke(tmp_path), print)
    rows = dict(table(context))
    low, high = map(int, re.findall(r"\d+", rows["parameters as exported"].replace(",", ""))[:2])
    assert low < high and high > context.bin.high and "outside the bin" in rows["parameters as exported"]
    cost = costs.flops(context)["distilled_control"]
    assert f"from random_weights, at learning rate 0.001: {cost:.3g} FLOPs" in rows["control"]
