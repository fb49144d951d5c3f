"""Mixtures of experts at their real sizes, against transformers; and dropped experts against a masked router."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import tiny
import torch
from litgpt import GPT, Config
from test_extraction import architecture, change, close, run, shuffled_ordering
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

import pipeline
from pipeline.api import Teacher
from pipeline.config import Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, reconstruction, sources
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, checked
from pipeline.models.student import build
from pipeline.models.tokenizer import write_bytes
from pipeline.subnetwork.allocation import Errors, allocate
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import whole

MIXTURES = sorted(tiny.MIXTURES)
REAL = {  # as published: https://huggingface.co/mistralai/Mixtral-8x7B-v0.1, https://huggingface.co/Qwen/Qwen3-30B-A3B
    "Mixtral-8x7B-v0.1": MixtralConfig(max_position_embeddings=32768),
    "Qwen3-30B-A3B": Qwen3MoeConfig(num_hidden_layers=48, head_dim=128),
}


@pytest.mark.parametrize("name", REAL)
def test_counts_are_those_of_the_published_models(name):
    config = Config.from_name(name)
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
    ours = architecture_of(checked(given), tied=False)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(REAL[name])
    sizes = {name: parameter.numel() for name, parameter in theirs.named_parameters()}
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    assert experts > 0.9 * sum(sizes.values())
    assert parameters(ours) == sum(sizes.values())
    unused = 1 - ours.n_expert_per_token / ours.n_expert
    assert parameters(ours, count="active") == sum(sizes.values()) - unused * experts


@pytest.mark.proves("cut experts", lambda family: family)
@pytest.mark.parametrize("family", MIXTURES)
def test_dropped_experts_are_experts_that_no_token_reaches(family, monkeypatch):
    teacher = tiny.teacher(family)
    arch = architecture(teacher)
    order = shuffled_ordering(arch)
    sub = dataclasses.replace(change(whole(arch), n_expert=3, n_expert_per_token=2), ordering="shuffled")
    masked = copy.deepcopy(teacher)
    for layer, block in enumerate(masked.transformer.h):
        dropped = order.experts[layer][3:]
        block.mlp.gate.register_forward_hook(
            lambda module, given, logits, dropped=dropped: logits.index_fill(1, torch.tensor(dropped), -math.inf)
        )
        block.mlp.config = dataclasses.replace(block.mlp.config, n_expert_per_token=2)
    student = extract(teacher, sub, order)
    assert len(student.transformer.h[0].mlp.experts) == 3
    close(run(student), run(masked))


def test_litgpts_own_folder_with_a_width_for_experts(tmp_path):
    """litgpt's configuration of Qwen3-MoE has the width of a dense MLP, too, which no layer has."""
    from litgpt.utils import save_config  # imports lightning

    fields = tiny.CONFIGS["qwen3_moe"] | {"intermediate_size": 72, "moe_intermediate_size": 24}
    fields |= {"vocab_size": 257, "padded_vocab_size": 257}  # as the byte tokenizer has
    theirs = tiny.randomize(GPT(Config(**fields)))
    (folder := tmp_path / "theirs").mkdir()
    save_config(theirs.config, folder)
    torch.save(theirs.state_dict(), folder / "lit_model.pth")
    config = TeacherConfig(name="ours", source=Source.litgpt, path=str(folder), tokenizer="bytes", tied=False)
    assert sources.describe(config).intermediate_size == 24
    sources.convert(config, tmp_path / "ours")
    close(run(checkpoint.load(tmp_path / "ours", "cpu")), run(theirs))


class Text:
    """Random bytes."""

    block_size, vocab_size = 16, 257
    tokens = torch.randint(0, 256, (16, 17), generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.tokens)

    def take(self, numbers):
        return self.tokens[torch.as_tensor(np.asarray(numbers, np.int64))]


def test_a_mixture_is_searched_by_active_parameters_recovered_distilled_and_exported(tmp_path):
    config = Config(**tiny.CONFIGS["mixtral"] | {"block_size": 64, "vocab_size": 257, "padded_vocab_size": 288})
    model = tiny.randomize(build(config, None, tied=False)).requires_grad_(False)
    arch, blocks = architecture(model), Text.tokens
    half = parameters(arch, count="active") * 3 // 4
    ordering = pipeline.importance(model, blocks)
    uniform = {"sharing": "uniform", "exportable": "stock", "layers": "rank"}
    space = pipeline.SearchSpace(model, half * 9 // 10, half, ordering, count="active", **uniform)
    found = pipeline.find(model, space, blocks, population=4, parents=2, generations=1)
    assert half * 9 // 10 <= parameters(arch, found.subnetwork, "active") <= half
    assert parameters(arch, found.subnetwork) > half
    student = pipeline.extract(model, found)
    report = pipeline.recover(model, student, found, blocks)
    assert any("experts" in refit.projection and refit.ridge for refit in report.refits)
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    curve = pipeline.distill(model, student, Text(), blocks[:4], tokens=64, global_batch=4, micro_batch=2, lr=1e-3)
    assert [tokens for tokens, _ in curve] == [0, 64]
    changed = {name for name, weight in student.state_dict().items() if not torch.equal(weight, before[name])}
    assert any("mlp.gate" in name for name in changed) and any("experts" in name for name in changed)
    write_bytes(tmp_path)
    to = tmp_path / "student"
    assert pipeline.export(student, Teacher(model, tmp_path), to, blocks) == "stock"
    loaded = AutoModelForCausalLM.from_pretrained(to)
    assert type(loaded).__name__ == "MixtralForCausalLM"
    assert loaded.config.num_local_experts == found.subnetwork.genes[0].n_expert
    with torch.no_grad():
        torch.testing.assert_close(loaded(blocks).logits, student.eval()(blocks)[..., :257], atol=1e-4, rtol=0)
    own = loaded.num_parameters()
    assert own == exported(arch, found.subnetwork).parameters


def test_an_allocation_is_refused(tmp_path):
    model = tiny.teacher("mixtral")
    with pytest.raises(SprigError, match="allocation knows no errors of experts, which mixtral has"):
        reconstruction.measure(model, Ordering.identity(architecture(model)), tiny.tokens(), "fp32", 2)
    space = pipeline.SearchSpace(model, 1, parameters(architecture(model)))
    with pytest.raises(SprigError, match="allocation knows no errors of experts, which mixtral has"):
        allocate(space, Errors.none(architecture(model)))


@pytest.mark.parametrize("family", MIXTURES)
def test_gradients_reach_the_router_and_every_expert(family):
    model = tiny.teacher(family).train()
    model(tiny.tokens(4)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
