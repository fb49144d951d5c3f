"""Stage recover: what it makes, what it refuses, and how it resumes."""

import math

import pytest
import torch
from covering import slow
from runs import smoke

import pipeline
from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.models.perplexity import mean_nll
from pipeline.models.recovery.recover import Settings, held_out_blocks
from pipeline.plan import costs
from pipeline.plan.table import table
from pipeline.stages import graph, recover
from pipeline.stages.context import Context
from pipeline.stages.roots import roots

SHORT = ["stages=[prepare,order,search,extract,recover]", "search=uniform", "recover.tokens=512"]


def context_of(outputs, *overrides: str) -> Context:
    return Context(smoke(outputs, *SHORT, *overrides), lambda line: None)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A run up to its recovered student."""
    outputs = tmp_path_factory.mktemp("recover") / "outputs"
    pipeline.run(smoke(outputs, *SHORT))
    return outputs


def test_the_losses_reported_are_those_of_the_models(outputs):
    context = context_of(outputs)
    steps = graph.build(context)
    found = recover.result(context.made(steps["recovered_student"].recipe))
    cut, recovered = (
        context.student(steps[f"{name}_student"].recipe, torch.device("cpu")) for name in ("extracted", "recovered")
    )
    blocks = recover.training_blocks(context, roots(context))
    held = torch.tensor(held_out_blocks(len(blocks), Settings().held_out))
    assert found["tokens"] == 512 and found["held_out_tokens"] == blocks[held][:, 1:].numel()
    assert found["before"] == pytest.approx(mean_nll(cut, blocks[held], 8, "fp32"), rel=1e-9)
    reached = mean_nll(recovered, blocks[held], 8, "fp32")
    assert reached == pytest.approx(found["after"] if found["helped"] else found["before"], rel=1e-9)
    assert reached <= found["before"]


@pytest.mark.parametrize("torn", [*slow([[0]]), 1])
def test_an_interrupted_recovery_resumes_with_the_same_bits(outputs, tmp_path, monkeypatch, torn):
    """Also where the file of the last layer is not whole."""

    class Cut(Exception):
        pass

    save = recover._save

    def save_two(layers, number, layer):
        save(layers, number, layer)
        if number == 1:
            raise Cut

    monkeypatch.setattr(recover, "_save", save_two)
    with pytest.raises(Cut):
        pipeline.run(smoke(tmp_path, *SHORT))
    monkeypatch.setattr(recover, "_save", save)
    [last] = tmp_path.rglob("layer-1.pt")
    last.write_bytes(last.read_bytes()[: -1000 * torn or None])
    refitted = []
    monkeypatch.setattr(recover, "_save", lambda layers, number, layer: refitted.append(number))
    pipeline.run(smoke(tmp_path, *SHORT))
    assert refitted[0] == 2 - torn
    weights = [
        torch.load(folder / "smoke/latest/artifacts/recovered_student" / checkpoint.WEIGHTS)
        for folder in (outputs, tmp_path)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_only_sub_networks_are_recovered(tmp_path):
    def recovered(*overrides: str) -> set[str]:
        return {role for role in graph.build(context_of(tmp_path, *overrides)) if role.startswith("recovered_")}

    assert recovered() == {"recovered_student"}
    assert recovered("recover=on") == {"recovered_student"}
    assert recovered("recover=off") == set()
    assert recovered("distill.init=random_weights") == set()
    assert recovered("distill.control.init=random_subnetwork") == {"recovered_student", "recovered_control"}


def test_the_plan_prices_it(tmp_path):
    context = context_of(tmp_path)
    [row] = [text for name, text in table(context) if name == "recover"]
    assert "512 tokens" in row and "FLOPs" in row
    assert costs.flops(context)["recovered_student"] > 0
    assert "recover" not in dict(table(context_of(tmp_path, "recover=off")))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["recover=on", "distill.init=random_weights"], r"recover.enabled=true, but distill.init=random_weights"),
        (["recover.tokens=63"], r"recover.tokens=63 gives 1 blocks of 32 tokens, and recovery needs at least 2"),
        (["recover.ridges=[]"], r"recover.ridges=\[\] has no candidate"),
        (["recover.ridges=[0.0]"], r"recover.ridges=0.0 must be above 0"),
        (["recover.tokens=0"], r"recover.tokens=0"),
    ],
)
def test_what_cannot_be_is_refused_in_the_plan(tmp_path, overrides, sentence):
    with pytest.raises(SprigError, match=sentence):
        pipeline.run(smoke(tmp_path, *SHORT, *overrides, "plan=true"))


def test_more_tokens_than_the_text_has_are_refused_before_the_search(outputs):
    with pytest.raises(SprigError, match=r"recover.tokens=9,999,999 asks for 312499 blocks, but the training split"):
        pipeline.run(smoke(outputs, *SHORT, "recover.tokens=9_999_999"))


def test_the_untrained_student_is_evaluated_next_to_the_recovered_one(smoke_outputs):
    run = smoke_outputs / "smoke/latest"
    summary = pipeline.run(pipeline.compose([f"run={run}", "stages=[report]"]))
    cut = checkpoint.load(run / "artifacts/extracted_student", "cpu")
    context = Context(smoke(smoke_outputs), lambda line: None)
    blocks = context.evenly(roots(context).tokens, "validation", context.config.evaluate.blocks, "evaluate.blocks")
    assert summary["student"]["untrained_perplexity"] == pytest.approx(math.exp(mean_nll(cut, blocks, 8, "fp32")))
    assert summary["student"]["recovered_perplexity"] is not None
    assert summary["flops"]["recover"] > 0 and summary["recover"]["tokens"] == 1_024
