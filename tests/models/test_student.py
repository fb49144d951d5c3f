"""The student's shapes and rotary tables; that its weights are right is the extraction's test."""

import dataclasses

import pytest
import tiny
import torch
from litgpt import GPT, Config
from torch import nn

from pipeline.errors import SprigError
from pipeline.models import student
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.student import LayerwiseGPT, SprigGPT, assemble, build, hidden_states, initialize
from pipeline.subnetwork.value import LayerGenes, SubNetwork, whole

PAIRS = ("last", "strided", "first", "plain")


def uniform(config, pairs, head_size):
    genes = tiny.gene(config.name, config.n_query_groups, 1, head_size, 20)
    return SubNetwork((0, 2), config.n_embd - 7, (genes,) * 2, pairs)


def run(model):
    with torch.no_grad():
        return model(tiny.tokens())


@pytest.mark.parametrize("family", tiny.families("smollm3", "olmoe"))
@pytest.mark.parametrize("pairs", PAIRS)
def test_a_uniform_student_in_litgpts_config_is_the_layerwise_one(family, pairs):
    config, tied = tiny.config(family), family in tiny.TIED
    sub = uniform(config, pairs, config.head_size // 2)
    layerwise = tiny.randomize(LayerwiseGPT(config, sub))
    student = build(config, sub, tied)
    if family in ("llama3", "gemma3") and pairs != "plain":  # not one power law
        assert type(student) is LayerwiseGPT
        return
    own = config.sliding_window_size or config.rope_indices or family == "olmoe"
    assert type(student) is (SprigGPT if own else GPT)
    weights = layerwise.state_dict()
    if tied:
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
    student.load_state_dict(weights)
    layerwise.load_state_dict(weights)
    torch.testing.assert_close(run(student.eval()), run(layerwise), rtol=0, atol=1e-4)
    litgpts = GPT(student.config)
    litgpts.load_state_dict(weights)
    if family == "smollm3":  # layers without rotary positions are Sprig's own: litgpt stops
        with pytest.raises(ValueError, match="cos must be three-dimensional"):
            run(litgpts)
        return
    if family == "olmoe":  # and so are experts' weights that do not sum to 1
        with pytest.raises(TypeError, match="NoneType"):
            run(litgpts)
        return
    torch.testing.assert_close(run(litgpts.eval()), run(layerwise), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pairs, first, step", [("last", 10, 1), ("strided", 4, 3), ("first", 0, 1)])
def test_stock_frequencies_are_the_teachers_at_real_sizes(pairs, first, step):
    """SmolLM2's rope with 22, 10 of 32 pairs kept; positions up to its context."""
    config = Config.from_name("SmolLM2-135M-Instruct", n_layer=1, n_embd=8, head_size=64, padded_vocab_size=8)
    kept = 10 if pairs == "strided" else 22
    gene = LayerGenes(1, 1, 2 * kept, 8)
    student = build(config, SubNetwork((0,), 8, (gene,), pairs), tied=False)
    frequencies = 100000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    chosen = frequencies[first : first + step * kept : step]
    angles = torch.outer(torch.arange(8192, dtype=torch.float64), chosen)
    # fp32 angles of thousands of radians are off by about 1e-3 in litgpt's own tables too.
    torch.testing.assert_close(student.cos[:, :kept].double(), angles.cos(), rtol=0, atol=3e-3)
    torch.testing.assert_close(student.sin[:256, kept:].double(), angles[:256].sin(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pairs", PAIRS)
def test_a_students_config_survives_its_file_and_builds_itself_again(pairs, tmp_path):
    from litgpt.utils import save_config  # imports lightning

    config = tiny.config("qwen2")
    sub = uniform(config, pairs, 6)
    student = build(config, sub, tied=False)
    save_config(student.config, tmp_path)
    loaded = Config.from_file(tmp_path / "model_config.yaml")
    assert loaded == student.config
    assert loaded.rope_base == student.config.rope_base and isinstance(loaded.rope_condense_ratio, int | float)
    again = build(loaded, sub, tied=False)
    assert again.config == student.config
    assert torch.equal(again.cos, student.cos) and torch.equal(again.sin, GPT(loaded).sin)


def test_plain_keeps_the_teachers_base():
    config = tiny.config("llama")
    student = build(config, uniform(config, "plain", 8), tied=True)
    assert (student.config.rope_base, student.config.rope_condense_ratio) == (100000, 1)


def test_layers_of_one_head_size_share_a_table():
    config = tiny.config("llama")
    genes = (LayerGenes(3, 2, 8, 9), LayerGenes(1, 1, 4, 40), LayerGenes(2, 1, 8, 1))
    model = build(config, SubNetwork((0, 1, 2), 50, genes), tied=True)
    assert isinstance(model, LayerwiseGPT) and is_tied(model)
    assert model.cos.shape == (32, 4 + 8)
    assert model.rope_columns == [slice(4, 12), slice(0, 4), slice(4, 12)]


@pytest.mark.parametrize("layerwise", [False, True])
def test_hidden_states_lead_to_the_logits(layerwise):
    config = tiny.config("gpt_neox")
    sub = whole(architecture_of(config, tied=False))
    if layerwise:
        sub = dataclasses.replace(sub, genes=(*sub.genes[:2], LayerGenes(2, 1, 24, 5)))
    model = tiny.randomize(build(config, sub, tied=False))
    with torch.no_grad():
        hidden = hidden_states(model, tiny.tokens())
        assert hidden.shape == (2, 17, 96)
        torch.testing.assert_close(model.lm_head(hidden), model(tiny.tokens()), rtol=0, atol=1e-6)
    with pytest.raises(SprigError, match="33 tokens exceed the context of neox, 32"):
        hidden_states(model, tiny.tokens(1, 33))


def test_gradients_reach_every_parameter_of_a_layerwise_student():
    config = tiny.config("qwen3")
    genes = (LayerGenes(3, 2, 8, 9), LayerGenes(1, 1, 4, 40))
    model = tiny.randomize(build(config, SubNetwork((0, 2), 20, genes), tied=True))
    model(tiny.tokens()).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_rotary_tables_stay_in_fp32():
    model = build(tiny.config("llama"), None, tied=True, dtype=torch.bfloat16)
    assert model.cos.dtype == torch.float32 and model.lm_head.weight.dtype == torch.bfloat16


def test_random_weights_depend_on_the_seed_alone():
    config = dataclasses.replace(tiny.config("gpt_neox"), n_embd=256, intermediate_size=1024)
    models = [build(config, None, tied=False) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        initialize(model, seed)
    one, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])
    assert one["transformer.h.1.mlp.fc.weight"].std().item() == pytest.approx((2 / (5 * 256)) ** 0.5, rel=0.02)
    assert one["transformer.h.1.mlp.proj.weight"].std().item() == pytest.approx(2 / (3 * 16), rel=0.02)
    assert one["transformer.h.0.norm_1.weight"].eq(1).all() and one["transformer.h.0.attn.qkv.bias"].eq(0).all()


def test_modules_of_others_have_initial_weights_and_tables_afterwards(monkeypatch):
    config = tiny.config("gpt_neox")
    built = build(config, None, False)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(student, "GPT", lambda config: 1 / 0)
        build(config, None, False)
    assert torch.equal(GPT(config).cos, built.cos) and built.cos.numel() > 0
    for module in (nn.Linear(64, 64), nn.Embedding(64, 64)):
        assert 0.01 < module.weight.std() < 2
    assert torch.equal(nn.LayerNorm(64).weight, torch.ones(64))


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fit_are_named(change):
    config = tiny.config("gpt_neox")
    weights = build(config, None, False).state_dict()
    name = "transformer.h.1.mlp.fc.weight"
    if change == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][1:]
    with pytest.raises(RuntimeError, match=name):
        assemble(config, None, False, weights)


def test_tied_weights_are_drawn_once():
    model = build(tiny.config("llama"), None, tied=True)
    initialize(model, 0)
    assert is_tied(model) and torch.isfinite(run(model)).all()
