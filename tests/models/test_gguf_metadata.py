"""GGUF metadata is input: each key is honoured as llama.cpp honours it, or refused in one sentence."""

import gguf
import numpy as np
import pytest
import test_gguf
import torch
from test_gguf import TOKENS, teacher
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.families import architecture_of

_SIZES = {
    "vocab_size": 270,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
Kind = gguf.GGUFValueType
KINDS = {bool: Kind.BOOL, int: Kind.INT32, float: Kind.FLOAT32, str: Kind.STRING}


def make(kind: type[PreTrainedModel], config: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.2 * noise)
    return model


def llama(**changes) -> LlamaForCausalLM:
    return make(LlamaForCausalLM, LlamaConfig(**_SIZES | changes))


def says(**keys):
    """Adds or replaces keys; `__` stands for a dot."""

    def add(writer):
        for name, value in keys.items():
            key = name.replace("__", ".")
            if value is None:
                writer.kv_data[0].pop(key, None)
            elif isinstance(value, list):
                writer.kv_data[0].pop(key, None)
                writer.add_array(key, value)
            else:
                writer.add_key_value(key, value, KINDS[type(value)])

    return add


@torch.no_grad()
def assert_same(path, theirs: PreTrainedModel, folder) -> None:
    config = teacher(path)
    sources.convert(config, folder)
    ours = checkpoint.load(folder, "cpu").eval()
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=0)
    assert sources.describe(config) == architecture_of(ours.config, theirs.config.tie_word_embeddings)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_architectures_equal_the_model_that_was_written(name, tied, tmp_path):
    kind, config = {
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**_SIZES, tie_word_embeddings=tied)),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**_SIZES, head_dim=24, tie_word_embeddings=tied)),
    }[name]
    theirs = make(kind, config)
    wide = says(qwen3__attention__key_length=24, qwen3__attention__value_length=24)
    test_gguf.write(theirs, tmp_path / "tiny.gguf", name, extra=[wide] if name == "qwen3" else [])
    assert_same(tmp_path / "tiny.gguf", theirs, tmp_path / "ours")


@pytest.mark.parametrize("biases", [{"attention_bias": True}, {"mlp_bias": True}], ids=str)
def test_biases_of_a_llama(biases, tmp_path):
    theirs = llama(**biases)
    test_gguf.write(theirs, tmp_path / "tiny.gguf")
    assert_same(tmp_path / "tiny.gguf", theirs, tmp_path / "ours")


def linear(factor: float) -> LlamaForCausalLM:
    return llama(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": factor})


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}, 4.0),
        ({"llama__rope__scaling__factor": 4.0}, 4.0),  # without a type: linear
        ({"llama__rope__scale_linear": 2.0}, 2.0),
        ({"llama__rope__scaling__factor": 4.0, "llama__rope__scale_linear": 2.0}, 4.0),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scale_linear": 2.0}, 2.0),
        ({"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}, 1.0),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 0.0}, 1.0),
        ({"llama__rope__scaling__type": "linear"}, 1.0),
        ({"llama__rope__dimension_count": 16}, 1.0),
        ({"llama__expert_count": 0, "llama__expert_used_count": 0, "llama__attention__causal": True}, 1.0),
        ({"llama__feed_forward_length": [96, 96], "llama__attention__head_count_kv": [2, 2]}, 1.0),
        ({"llama__attention__sliding_window": 64, "llama__rope__scaling__yarn_log_multiplier": 0.1}, 1.0),
        ({"general__type": "model", "general__quantized_by": "someone", "llama__vocab_size": 270}, 1.0),
    ],
    ids=str,
)
def test_keys_mean_what_they_mean_in_llama_cpp(keys, factor, tmp_path):
    theirs = linear(factor) if factor != 1 else llama()
    test_gguf.write(theirs, tmp_path / "tiny.gguf", extra=[says(**keys)])
    assert_same(tmp_path / "tiny.gguf", theirs, tmp_path / "ours")


REFUSED = {
    "an array of widths": (
        {"llama__feed_forward_length": [96, 80]},
        "feed_forward_length=.*differs from layer to layer",
    ),
    "an array of texts": ({"llama__block_count": ["2", "2"]}, "block_count=.*differs from layer to layer"),
    "no heads": ({"llama__attention__head_count": 0}, "llama.attention.head_count=0 is not a whole number from 1"),
    "3 of 4 groups": ({"llama__attention__head_count_kv": 3}, "head_count=4 is not a multiple of .*head_count_kv=3"),
    "width 250": (
        {"llama__embedding_length": 250, "llama__attention__key_length": None},
        "embedding_length=250 is not a multiple of .*head_count=4",
    ),
    "context as text": ({"llama__context_length": "64"}, "llama.context_length='64', not a whole number"),
    "context as float": ({"llama__context_length": 64.0}, "llama.context_length=64.0, not a whole number"),
    "context missing": ({"llama__context_length": None}, "has no llama.context_length in its metadata"),
    "no context": ({"llama__context_length": 0}, "llama.context_length=0 is not a whole number from 1"),
    "negative depth": ({"llama__block_count": -2}, "llama.block_count=-2 is not a whole number"),
    "too deep": ({"llama__block_count": 10**9}, "llama.block_count=1000000000 is not a whole number from 1"),
    "huge heads": (
        {"llama__attention__key_length": 10**9, "llama__attention__value_length": 10**9},
        "key_length=1000000000 is not a whole number from 1 to 65,536",
    ),
    "eps as text": ({"llama__attention__layer_norm_rms_epsilon": "1e-5"}, "epsilon='1e-5', not a number"),
    "eps NaN": ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "epsilon=nan is not a number above 0"),
    "base 0": ({"llama__rope__freq_base": 0.0}, "freq_base=0 is not a number above 0"),
    "base inf": ({"llama__rope__freq_base": float("inf")}, "freq_base=inf is not a number above 0"),
    "factor negative": ({"llama__rope__scaling__factor": -1.0}, "rope.scaling.factor=-1.0 is not a number above 0"),
    "factor as text": ({"llama__rope__scaling__factor": "4"}, "rope.scaling.factor='4', not a number"),
    "scaling": ({"llama__rope__scaling__type": "longrope"}, "scaling.type='longrope', and only none and linear"),
    "scaling a number": ({"llama__rope__scaling__type": 2}, "rope.scaling.type=2, not a text"),
    "part of a head rotates": ({"llama__rope__dimension_count": 8}, "dimension_count=8, and only the size of a whole"),
    "values": ({"llama__attention__value_length": 8}, "value_length=8, and only the size of a whole head, 16"),
    "not causal": ({"llama__attention__causal": False}, "attention.causal=False, which Sprig does not read"),
    "window": ({"llama__attention__sliding_window": 63}, "sliding_window=63, shorter than the context"),
    "logit scale": ({"llama__logit_scale": 0.5}, "llama.logit_scale=0.5, which Sprig does not read"),
    "a key to come": ({"llama__attention__new_thing": 3}, "llama.attention.new_thing=3, which Sprig does not read"),
    "attention factor": ({"llama__rope__scaling__attn_factor": 1.2}, "attn_factor=.*, which Sprig does not read"),
    "adapter": ({"general__type": "adapter"}, "holds an adapter, not a model"),
    "architecture a number": ({"general__architecture": 3}, "general.architecture=3, not a text"),
    "eos beyond": ({"tokenizer__ggml__eos_token_id": 261}, "eos_token_id=261, beyond its 261 tokens"),
    "eos negative": ({"tokenizer__ggml__eos_token_id": -1}, "eos_token_id=-1, beyond its 261 tokens"),
    "eos as text": ({"tokenizer__ggml__eos_token_id": "0"}, "eos_token_id='0', not a whole number"),
    "eos missing": ({"tokenizer__ggml__eos_token_id": None}, "has no tokenizer.ggml.eos_token_id"),
    "bos beyond": (
        {"tokenizer__ggml__bos_token_id": 999, "tokenizer__ggml__add_bos_token": True},
        "bos_token_id=999, beyond its 261 tokens",
    ),
    "types short": ({"tokenizer__ggml__token_type": [3, 1]}, "token_type=.*, 2 types for 261 tokens"),
    "types as texts": ({"tokenizer__ggml__token_type": ["3"] * 261}, "token_type=.*, not a list of int alone"),
    "tokens as numbers": ({"tokenizer__ggml__tokens": [1, 2]}, "tokens=.*, not a list of str alone"),
    "tokens a text": ({"tokenizer__ggml__tokens": "abc"}, "tokens='abc', not a list"),
    "merge unknown": ({"tokenizer__ggml__merges": ["t h", "t x"]}, "merges 't x', which its tokens do not have"),
    "merge of one": ({"tokenizer__ggml__merges": ["th"]}, "merges 'th', which its tokens do not have"),
    "merge of three": ({"tokenizer__ggml__merges": ["t h e"]}, "merges 't h e', which its tokens do not have"),
    "template a number": ({"tokenizer__chat_template": 3}, "tokenizer.chat_template=3, not a text"),
    "splitting": ({"tokenizer__ggml__pre": "marvel"}, "tokenizer of kind gpt2/marvel"),
    "splitting a number": ({"tokenizer__ggml__pre": 3}, "tokenizer.ggml.pre=3, not a text"),
    "kind": ({"tokenizer__ggml__model": "bert"}, "tokenizer of kind bert/smollm"),
    "no scores": ({"tokenizer__ggml__model": "llama"}, "has no tokenizer.ggml.scores"),
    "scores short": (
        {"tokenizer__ggml__model": "llama", "tokenizer__ggml__scores": [0.5]},
        "scores=.*, 1 scores for 261 tokens",
    ),
    "alignment": ({"general__alignment": 0}, "is truncated or not a GGUF file .its alignment is 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_its_key(case, tmp_path):
    keys, message = REFUSED[case]
    test_gguf.write(llama(), tmp_path / "tiny.gguf", extra=[says(**keys)])
    with pytest.raises(SprigError, match=message) as caught:
        sources.describe(teacher(tmp_path / "tiny.gguf"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("blk.1.attn_q.weight", np.zeros((32, 64), np.float32), "attn_q.weight with 32 rows where its metadata says 4"),
        ("blk.1.attn_v.weight", np.zeros((16, 64), np.float32), r"by litgpt's name, has shape \(112, 64\) where"),
        ("blk.1.ffn_up.weight", np.full((96, 64), np.nan, np.float32), r"^blk.1.ffn_up.weight in .* that are not"),
        ("output_norm.weight", np.full(64, np.inf, np.float32), r"^output_norm.weight in .*\.gguf holds"),
        ("output.weight", np.zeros((280, 64), np.float32), "embedding has 270 rows and its head 280"),
        ("blk.7.ffn_up.weight", np.zeros((96, 64), np.float32), "h.7.mlp.fc.* where its configuration says none|lack"),
        ("blk.0.attn_norm.bias", np.zeros(64, np.float32), "norm_1.bias, by .*, has shape .* says none"),
    ],
)
def test_tensors_are_held_to_the_metadata(name, values, message, tmp_path):
    theirs = llama()
    parts = name.split(".")
    full = {"output_norm": "model.norm.weight", "output": "lm_head.weight"}.get(parts[0])
    short = {short: long for long, short in test_gguf._NAMES.items()}
    full = full or f"model.layers.{parts[1]}.{short[parts[2]]}.{parts[3]}"
    state = theirs.state_dict() | {full: torch.tensor(values)}
    theirs.state_dict = lambda: state
    test_gguf.write(theirs, tmp_path / "tiny.gguf")
    with pytest.raises(SprigError, match=message):
        sources.convert(teacher(tmp_path / "tiny.gguf"), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_split_files_are_one_model(tmp_path):
    theirs = llama()
    test_gguf.write(theirs, tmp_path / "tiny.gguf", pieces=6)
    pieces = sorted(tmp_path.glob("tiny-*-of-*.gguf"))
    assert len(pieces) > 2
    assert_same(pieces[0], theirs, tmp_path / "ours")
    assert sources.describe(teacher(pieces[2])) == sources.describe(teacher(pieces[0]))
    identity = sources.identify(teacher(pieces[0]))
    assert set(identity["files"]) == {piece.name for piece in pieces}
    assert sources.identify(teacher(pieces[1])) == identity

    pieces[1].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(SprigError, match=r"tiny-00002-of-0000\d\.gguf is missing, one of the \d files"):
        sources.identify(teacher(pieces[0]))
    with pytest.raises(SprigError, match=r"name them as llama\.cpp does, NAME-00001-of-0000\d\.gguf"):
        sources.describe(teacher(tmp_path / "elsewhere.gguf"))
    pieces[1].write_bytes(pieces[2].read_bytes())
    with pytest.raises(SprigError, match=r"is not file 2 of \d by its own metadata"):
        sources.describe(teacher(pieces[0]))


def test_hostile_headers_are_one_sentence(tmp_path):
    """Counts, shapes, kinds and texts that no file can hold."""
    test_gguf.write(llama(), tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    shape = content.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight")
    for start, value in [
        (8, 2**62),  # tensors
        (16, 2**62),  # keys
        (24, 2**63),  # length of the first key
        (shape + 4, 0),
        (shape + 4, 2**63),
        (shape + 12, 2**40),
        (shape + 20, 999),  # kind and offset
    ]:
        path = tmp_path / "hostile.gguf"
        path.write_bytes(content[:start] + value.to_bytes(8, "little") + content[start + 8 :])
        with pytest.raises(SprigError, match=r"is truncated or not a GGUF file") as caught:
            sources.describe(teacher(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(content[:shape] + (10**9).to_bytes(4, "little") + content[shape + 4 :])
    with pytest.raises(SprigError, match="1000000000 dimensions"):
        sources.describe(teacher(path))
