"""Exports against the students that they were made of: transformers' own classes, padded ones, and the own file."""

import json
from dataclasses import replace
from pathlib import Path

import exports
import pytest
import tiny
import torch
from covering import grid
from litgpt import GPT
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.config import ExportForm
from pipeline.errors import SprigError
from pipeline.evaluation.sampling import continue_text
from pipeline.models.families import architecture_of, is_tied
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.value import LayerGenes, SubNetwork

SHAPES = ["uniform", "padded", "own"]
STOCK = {
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "llama3": "LlamaForCausalLM",
    "biased": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
}
FAMILIES = tuple(STOCK)
OWN = "SprigForCausalLM"


def stock_class(family: str, model: PreTrainedModel) -> str:
    """From 5.9 on, transformers refuses a Llama whose width is not a multiple of its heads."""
    undivided = model.config.hidden_size % model.config.num_attention_heads
    return "MistralForCausalLM" if family in ("llama", "llama3") and undivided else STOCK[family]


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    return exports.tokenizer(tmp_path)


def load(to: Path, **options) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(to, trust_remote_code=True, **options).eval()


@torch.no_grad()
def assert_same(student: GPT, model: PreTrainedModel) -> None:
    """The same logits on whole blocks, and the same 32 tokens with a KV cache that grows by one each."""
    tokens = exports.tokens()
    expected = student(tokens)[..., :257]
    assert expected.std() > 0.5  # flat logits would agree by chance
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=0)
    prompt = tokens[0, :10].tolist()
    ours = continue_text(student, prompt, 32, eos_id=256, precision="fp32")
    theirs = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 10, dtype=int), max_new_tokens=32)
    assert len(ours) == 32 and theirs[0, 10:].tolist() == ours


def foreseen(sub: SubNetwork, student: GPT) -> tuple[ExportForm, int]:
    """The form and the parameters that a plan names, from the teacher's sizes alone."""
    teacher = exports.teacher(student.config.name.replace("neox", "gpt_neox"), is_tied(student))
    found = exported(architecture_of(teacher.config, is_tied(student)), sub)
    return found.form, found.parameters


def expected_form(family: str, shape: str, cut_head: bool) -> str:
    return "own" if shape == "own" else exports.form_of(family, shape.replace("padded", "layerwise"), cut_head)


@pytest.mark.proves(
    lambda family, shape, cut_head: f"export `{expected_form(family, shape, cut_head)}`", lambda family: family
)
@pytest.mark.parametrize(
    ("family", "shape", "tied", "cut_head"),
    grid(tiny.FIRST, SHAPES, [False, True], [False, True]) + grid(tiny.LATER, SHAPES, [False, True], [False, True]),
)
def test_every_student_leaves_with_its_logits_and_its_tokens(family, shape, tied, cut_head, tokenizer):
    sub = (exports.uniform if shape == "uniform" else exports.layerwise)(family, cut_head)
    student = exports.student(family, sub, tied)
    taken, to = exports.export(student, tokenizer, "own" if shape == "own" else "auto")
    assert taken == expected_form(family, shape, cut_head)
    eager = {"attn_implementation": "eager"} if taken != "own" and family == "gemma2" else {}
    model = load(to, **eager)
    assert type(model).__name__ == (OWN if taken == "own" else stock_class(family, model))
    assert_same(student, model)
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (ends[0] is ends[1]) == is_tied(student) == tied
    assert model.dtype == torch.float32 and model.config.vocab_size == 257
    if shape != "own":
        assert foreseen(sub, student) == (taken, model.num_parameters())
    if taken != ExportForm.padded:
        padding_rows = 31 * sub.n_embd * (1 if tied else 2)
        ours = sum(parameter.numel() for parameter in student.parameters()) - padding_rows
        assert sum(parameter.numel() for parameter in model.parameters()) == ours


def test_layers_of_different_experts_need_the_own_file(tokenizer):
    genes = tuple(tiny.gene("mixtral", 2, 2, 16, 24, experts) for experts in (5, 3, 2))
    sub = SubNetwork((0, 1, 2), 40, genes)
    student = exports.student("mixtral", sub, tied=False)
    with pytest.raises(SprigError, match=r"differ in their experts, and zeros cannot .*: use export\.form=own"):
        exports.export(student, tokenizer, "padded")
    taken, to = exports.export(student, tokenizer)
    model = load(to)
    assert foreseen(sub, student) == (taken, model.num_parameters()) and taken == ExportForm.own
    assert_same(student, model)


@pytest.mark.parametrize(
    ("family", "pairs", "scale"),
    grid(["gpt_neox", "llama", "llama3"], ["last", "strided", "first"], ["teacher", "own"], times=2),
)
def test_every_run_of_pairs_fits_a_stock_class(family, pairs, scale, tokenizer):
    """Head sizes of 3, 2 and 1 pairs of GPT-NeoX's 4; of 5, 2 and 7 of Llama's 8."""
    sub = exports.layerwise(family, True, head_pairs=pairs, attention_scale=scale)
    student = exports.student(family, sub, tied=False)
    assert len({gene.head_size for gene in sub.genes}) == 3
    taken, to = exports.export(student, tokenizer)
    assert taken == ExportForm.padded
    assert foreseen(sub, student) == (taken, load(to).num_parameters())
    assert_same(student, load(to))


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_broken_pairs(family, tokenizer):
    """`plain` gives each head size frequencies of its own: one size is stock, several need the own file."""
    uniform = exports.student(family, exports.uniform(family, True, head_pairs="plain"), tied=False)
    taken, to = exports.export(uniform, tokenizer)
    assert taken == ExportForm.stock
    assert_same(uniform, load(to))
    student = exports.student(family, exports.layerwise(family, True, head_pairs="plain"), tied=False)
    with pytest.raises(SprigError, match=r"rotary frequencies from layer to layer: use export\.form=own"):
        exports.export(student, tokenizer, "padded")
    assert_same(student, load(exports.export(student, tokenizer, "own")[1]))


@pytest.mark.parametrize(
    ("family", "over"),
    [
        ("qwen3", "each head"),
        ("qwen3_moe", "each head"),
        ("gemma3", "each head"),
        ("olmo2", "all heads together"),
        ("olmoe", "all heads together"),
    ],
)
def test_padding_is_refused_with_what_the_familys_norms_run_over(tokenizer, family, over):
    uniform = exports.uniform(family, True)
    student = exports.student(family, exports.with_heads(uniform, 10, 4), tied=False)
    with pytest.raises(SprigError, match=f"norms q and k over {over}, .* pad its heads of 4 and 10"):
        exports.export(student, tokenizer, "padded")


def test_the_smallest_head_that_holds_all_pairs_is_taken(tokenizer):
    """2 and 4 of 8 pairs, strided: the last of every four lie among the last of every two."""
    sub = exports.with_heads(exports.layerwise("llama", True, head_pairs="strided"), 4, 8, 8)
    _, to = exports.export(exports.student("llama", sub, tied=False), tokenizer)
    assert json.loads((to / "config.json").read_text())["head_dim"] == 8


def test_a_norm_on_heads_of_several_sizes_needs_the_own_file(tokenizer):
    sub = exports.with_heads(exports.layerwise("qwen3", True), 10, 4, 14)
    student = exports.student("qwen3", sub, tied=True)
    with pytest.raises(SprigError, match=r"norms q and k over each head, .* use export\.form=own"):
        exports.export(student, tokenizer, "padded")
    taken, to = exports.export(student, tokenizer)
    assert taken == ExportForm.own
    assert foreseen(sub, student) == (taken, load(to).num_parameters())
    assert_same(student, load(to))


@pytest.mark.slow
@pytest.mark.proves("export `padded`", "biased")
def test_biases_are_padded_where_heads_divide_the_width(tokenizer):
    """Else the stock class would be Mistral, which has none."""
    sub = replace(exports.layerwise("biased", True), n_embd=48)
    taken, to = exports.export(exports.student("biased", sub, tied=False), tokenizer)
    assert taken == ExportForm.padded
    assert_same(exports.student("biased", sub, tied=False), load(to))


@pytest.mark.proves("export `padded`", lambda family: family)
@pytest.mark.parametrize("family", ["olmo2", "olmoe"])
def test_a_norm_over_another_number_of_heads_needs_the_own_file(family, tokenizer):
    """With the same heads in all layers, the MLPs are padded."""
    sub = exports.layerwise(family, True)
    with pytest.raises(SprigError, match=r"norms q and k over all heads, .* use export\.form=own"):
        exports.export(exports.student(family, sub, tied=False), tokenizer, "padded")
    genes = tuple(replace(sub.genes[0], intermediate_size=gene.intermediate_size) for gene in sub.genes)
    student = exports.student(family, replace(sub, genes=genes), tied=False)
    taken, to = exports.export(student, tokenizer)
    assert taken == ExportForm.padded
    assert_same(student, load(to))


def test_olmoe_heads_that_do_not_fill_the_width_need_the_own_file(tokenizer):
    student = exports.student("olmoe", exports.uniform("olmoe", False), tied=False)
    with pytest.raises(SprigError, match=r"2 x 2 heads of 16, but stock olmoe has heads x head size = width, 40 here"):
        exports.export(student, tokenizer, "padded")


def test_neox_heads_that_do_not_fill_the_width(tokenizer):
    """Padded where the width has a divisor that holds them, else the own file."""
    fits = exports.student("gpt_neox", exports.with_heads(exports.uniform("gpt_neox", False), 24, 24), tied=False)
    with pytest.raises(SprigError, match=r"needs zeros .* use export\.form=padded"):
        exports.export(fits, tokenizer, "stock")
    taken, to = exports.export(fits, tokenizer)
    assert taken == ExportForm.padded
    assert json.loads((to / "config.json").read_text())["num_attention_heads"] == 4
    assert_same(fits, load(to))
    wide = exports.student("gpt_neox", exports.with_heads(exports.uniform("gpt_neox", True), 24, 24), tied=False)
    with pytest.raises(SprigError, match=r"3 x 1 heads of 24, .* heads x head size = width, 48 here"):
        exports.export(wide, tokenizer, "padded")
    assert exports.export(wide, tokenizer, "own")[0] == ExportForm.own


def test_a_share_of_rotary_entries_that_rounds_down(tokenizer):
    """26 rotary entries of 184: transformers takes int(184 * share), and 184 * (26 / 184) is below 26."""
    assert int(184 * (26 / 184)) == 25
    sub = SubNetwork((0, 2), 184, (LayerGenes(1, 1, 104, 40),) * 2)
    student = exports.student("gpt_neox", sub, tied=False, n_embd=184, n_head=1, head_size=128)
    taken, to = exports.export(student, tokenizer)
    assert taken == ExportForm.padded
    assert_same(student, load(to))


def test_a_head_with_a_bias_needs_the_own_file(tokenizer):
    student = exports.student("qwen2", exports.uniform("qwen2", True), tied=False, lm_head_bias=True)
    with pytest.raises(SprigError, match=r"bias in its head.* use export\.form=own"):
        exports.export(student, tokenizer, "stock")
    assert_same(student, load(exports.export(student, tokenizer)[1]))


def test_a_serial_neox_and_condensed_positions(tokenizer):
    for family, changes in (("gpt_neox", {"parallel_residual": False}), ("llama", {"rope_condense_ratio": 4})):
        student = exports.student(family, exports.layerwise(family, True), tied=False, **changes)
        for form in ("padded", "own"):
            taken, to = exports.export(student, tokenizer, form)
            assert_same(student, load(to))
            to.rename(to.with_name(f"{taken} {family}"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_the_own_file_with_padded_batches_hidden_states_loss_and_gradients(attention, tokenizer):
    student = exports.student("llama", exports.layerwise("llama", True), tied=True)
    model = load(exports.export(student, tokenizer, "own")[1], attn_implementation=attention)
    assert model.config._attn_implementation == attention
    tokens = exports.tokens(1)
    expected = student(tokens)[..., :257]
    left = torch.cat([torch.full((1, 5), 256), tokens], dim=1)
    batch = model(torch.cat([left, exports.tokens(2, 29)[1:]]), attention_mask=(torch.arange(29) >= 5).expand(2, 29))
    torch.testing.assert_close(batch.logits[:1, 5:], expected, atol=1e-4, rtol=0)
    output = model(tokens, labels=tokens, output_hidden_states=True)
    nll = torch.nn.functional.cross_entropy(expected[0, :-1], tokens[0, 1:])
    torch.testing.assert_close(output.loss, nll, atol=1e-4, rtol=0)
    assert len(output.hidden_states) == 4
    torch.testing.assert_close(model.lm_head(output.hidden_states[-1]), output.logits)
    model.train().gradient_checkpointing_enable()
    with torch.enable_grad():
        model(tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_own_file_saves_itself_and_loads_in_bf16(tokenizer):
    student = exports.student("llama", exports.layerwise("llama", True), tied=True)
    model = load(exports.export(student, tokenizer, "own")[1])
    again = tokenizer.parent / "again"
    model.save_pretrained(again)
    assert_same(student, load(again))
    assert load(again, dtype=torch.bfloat16)(exports.tokens()).logits.dtype == torch.bfloat16
