"""config.json against transformers: the same function, or one sentence that names the key."""

import json

import pytest
import torch
from test_huggingface import _GQA, _SIZES, TOKENS, assert_same_logits, change, convert, make, teacher
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from pipeline.errors import SprigError
from pipeline.models import config_json, sources
from pipeline.models.families import architecture_of

_NEOX = _SIZES | {"hidden_dropout": 0.0}
WIDE = _SIZES | {"hidden_size": 60, "num_attention_heads": 3}
MODELS = {
    "mistral": (MistralForCausalLM, MistralConfig(**_GQA, sliding_window=None)),
    "mistral, window of the context": (MistralForCausalLM, MistralConfig(**_GQA, sliding_window=64)),
    "mistral, wide heads": (MistralForCausalLM, MistralConfig(**_GQA, sliding_window=None, head_dim=12)),
    "attention biases": (LlamaForCausalLM, LlamaConfig(**_GQA, attention_bias=True)),
    "MLP biases": (LlamaForCausalLM, LlamaConfig(**_GQA, mlp_bias=True, tie_word_embeddings=True)),
    "neox without attention biases": (GPTNeoXForCausalLM, GPTNeoXConfig(**_NEOX, attention_bias=False)),
    "neox, 5 of 20 entries": (GPTNeoXForCausalLM, GPTNeoXConfig(**WIDE, rotary_pct=0.25)),
    "neox, 19 of 20 entries": (GPTNeoXForCausalLM, GPTNeoXConfig(**WIDE, rotary_pct=0.95)),
    "neox, 7 of 10 entries": (
        GPTNeoXForCausalLM,
        GPTNeoXConfig(**_SIZES | {"hidden_size": 60}, rotary_pct=0.7, rotary_emb_base=500),
    ),
    "neox, all entries": (GPTNeoXForCausalLM, GPTNeoXConfig(**_NEOX, rotary_pct=1.0)),
    "swish": (LlamaForCausalLM, LlamaConfig(**_GQA, hidden_act="swish")),
    "dynamic": (
        LlamaForCausalLM,
        LlamaConfig(**_GQA, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}),
    ),
}
for _name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "gelu_accurate"):
    MODELS[f"neox {_name}"] = (GPTNeoXForCausalLM, GPTNeoXConfig(**_NEOX, hidden_act=_name))


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name, tmp_path):
    kind, config = MODELS[name]
    theirs = make(name, kind, config)
    theirs.save_pretrained(tmp_path / "theirs")
    said = teacher(tmp_path / "theirs")
    ours = convert(said, tmp_path / "ours")
    assert_same_logits(ours, theirs)
    assert sources.describe(said) == architecture_of(ours.config, config.tie_word_embeddings)


def test_gelu_variants_differ():
    """Else the test above could not fail."""
    exact, tanh = (torch.nn.functional.gelu(torch.linspace(-4, 4, 99), approximate=each) for each in ("none", "tanh"))
    assert (exact - tanh).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"num_key_value_heads": None}, False),
        ({"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, False),
        ({"rope_theta": 300, "rope_scaling": None, "rope_parameters": None}, False),
        ({"rope_scaling": {"rope_type": "default", "type": "default"}, "rope_parameters": None}, True),
        ({"pretraining_tp": 2}, True),
        ({"use_cache": False, "unheard_of": {"a": [1]}, "attention_dropout": 0.5}, True),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, True),  # Llama has none
    ],
    ids=str,
)
def test_keys_of_any_version_are_read_as_transformers_reads_them(fields, same, tmp_path):
    make("llama all heads").save_pretrained(tmp_path / "theirs")
    change(tmp_path / "theirs", **fields)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    assert_same_logits(convert(teacher(tmp_path / "theirs"), tmp_path / "ours"), theirs)
    with torch.no_grad():
        changed = not torch.allclose(theirs(TOKENS).logits, make("llama all heads")(TOKENS).logits, atol=1e-3)
    assert changed == (not same and fields.get("num_key_value_heads", 0) is not None)


@pytest.mark.parametrize("key", ["num_key_value_heads", "rope_parameters", "head_dim", "tie_word_embeddings"])
def test_missing_keys_mean_what_they_mean_in_transformers(key, tmp_path):
    for name in ("qwen2", "qwen3", "neox", "llama all heads"):
        make(name).save_pretrained(tmp_path / name)
        plain = json.loads((tmp_path / name / "config.json").read_text())
        plain.pop(key, None)
        (tmp_path / name / "config.json").write_text(json.dumps(plain))
        try:
            theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
            theirs(TOKENS)
        except (RuntimeError, ValueError):
            with pytest.raises(SprigError):
                convert(teacher(tmp_path / name), tmp_path / f"{name} ours")
        else:
            assert_same_logits(convert(teacher(tmp_path / name), tmp_path / f"{name} ours"), theirs)


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("llama", {"head_dim": 0}, "head_dim=0 is not a whole number from 1 to"),
        ("llama", {"head_dim": -1}, "head_dim=-1 is not a whole number"),
        ("llama", {"head_dim": 1e30}, r"head_dim=1e\+30 is not a whole number"),
        ("llama", {"head_dim": 10**9}, "head_dim=1000000000 is not a whole number from 1 to 65,536"),
        ("llama", {"head_dim": 7}, "rotate 7 entries of a head, which is not a positive even number"),
        ("llama", {"head_dim": 10**400}, "head_dim=1000.*000 is not a whole number"),
        ("llama", {"num_key_value_heads": -1}, "num_key_value_heads=-1 is not a whole number"),
        ("llama", {"num_key_value_heads": 4}, "num_attention_heads=6 is not a multiple of num_key_value_heads=4"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is not a whole number from 1 to 4,096"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers=True is not a whole number"),
        ("llama", {"num_hidden_layers": "3"}, "num_hidden_layers='3' is not a whole number"),
        ("llama", {"hidden_size": 250, "head_dim": None}, "hidden_size=250 is not a multiple of num_attention_heads=6"),
        ("llama", {"max_position_embeddings": 10**12}, "max_position_embeddings=1000000000000 is not a whole number"),
        ("llama", {"vocab_size": 0}, "vocab_size=0 is not a whole number"),
        ("llama", {"intermediate_size": [56, 40]}, r"intermediate_size=\[56, 40\] is not a whole number"),
        ("llama", {"rms_norm_eps": -1e-5}, "rms_norm_eps=-1e-05 is not a number above 0"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps=nan is not a number above 0"),
        ("llama", {"rope_parameters": None, "rope_theta": float("inf")}, "rope_theta=inf is not a number above 0"),
        ("llama", {"rope_parameters": None, "rope_theta": 0}, "rope_theta=0 is not a number above 0"),
        ("llama", {"rope_parameters": None, "rope_theta": -10000}, "rope_theta=-10000 is not a number above 0"),
        ("llama", {"rope_parameters": LINEAR | {"factor": 0}}, "rope factor=0 is not a number above 0"),
        ("llama", {"rope_parameters": LINEAR | {"factor": "2"}}, "rope factor='2' is not a number above 0"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rotary scaling 'linear' lacks 'factor'"),
        ("llama", {"rope_parameters": LLAMA3 | {"factor": None}}, "has a factor that is not a number above 0"),
        ("llama", {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}}, "high_freq_factor that does not exceed"),
        (
            "llama",
            {"rope_parameters": {**LLAMA3, "rope_type": "longrope"}},
            "rotary scaling 'longrope' is not supported",
        ),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rotary scaling 'yarn' is not supported"),
        ("llama", {"rope_parameters": {"full_attention": LINEAR}}, r"by layer type \(full_attention\)"),
        ("llama", {"rope_parameters": [1]}, r"rope_parameters=\[1\] is not an object"),
        ("llama", {"rope_parameters": LINEAR, "rope_scaling": LINEAR | {"factor": 4.0}}, "disagree in factor"),
        (
            "llama",
            {"rope_parameters": LINEAR, "rope_theta": 5e5},
            r"rope_theta=500000.0 and rope_theta=10000.0 disagree",
        ),
        ("llama", {"rope_parameters": LINEAR | {"type": "dynamic"}}, "rope_type='linear' and type='dynamic' disagree"),
        ("llama", {"rope_parameters": LINEAR | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not sup"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ("llama", {"attention_bias": "yes"}, "attention_bias='yes' is not true or false"),
        ("llama", {"tie_word_embeddings": None}, "tie_word_embeddings=None is not true or false"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, r"quantised \(quantization_config: 'gptq'\): deq"),
        ("llama", {"quantization_config": {"quant_method": "bitnet"}}, r"quantised \(quantization_config: 'bitnet'"),
        ("llama", {"quantization_config": {"bits": 4}}, r"quantised \(quantization_config: {'bits': 4}\): deq"),
        ("llama", {"compression_config": {"format": "dense"}}, r"quantised \(compression_config: {'format': 'dense'}"),
        ("llama", {"quantization_config": [1]}, r"quantised \(quantization_config: \[1\]\)"),
        ("llama", {"model_type": ["llama"]}, r"model_type \['llama'\]; supported are gpt_neox"),
        ("llama", {"model_type": "mistral", "sliding_window": 63}, r"sliding_attention \(sliding_window=63"),
        ("llama", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types=.* is not supported"),
        ("qwen3", {"use_sliding_window": 1}, "use_sliding_window=1 is not true or false"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True is not supported with q and k norms"),
        ("neox", {"rotary_pct": 0.5}, "rotary_pct=0.5 and rope_parameters.partial_rotary_factor=0.25 disagree"),
        ("neox", {"rotary_emb_base": 500}, "rotary_emb_base=500 and rope_theta=10000.0 disagree"),
        ("neox", {"rope_parameters": None, "rotary_pct": 1.5}, "partial_rotary_factor=1.5 is not a number above 0"),
        ("neox", {"rope_parameters": None, "rotary_pct": 0}, "partial_rotary_factor=0 is not a number above 0"),
        ("neox", {"rope_parameters": None, "rotary_pct": 0.1}, "rotate 0 entries of a head"),
        ("neox", {"rope_parameters": None, "rotary_pct": "all"}, "partial_rotary_factor='all' is not a number"),
        ("neox", {"head_dim": 16}, "head_dim=16 is not hidden_size / num_attention_heads, 8"),
        ("neox", {"hidden_act": "relu"}, "hidden_act='relu' is not supported, only gelu"),
        ("neox", {"hidden_act": ["gelu"]}, r"hidden_act=\['gelu'\] is not supported"),
        ("neox", {"layer_norm_eps": "small"}, "layer_norm_eps='small' is not a number"),
        ("neox", {"use_parallel_residual": 1}, "use_parallel_residual=1 is not true or false"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_its_key(name, fields, message):
    """The weights are not even looked at."""
    plain = make(name).config.to_dict() | fields
    with pytest.raises(SprigError, match=message) as caught:
        config_json.describe(plain)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_deeply_nested_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(SprigError, match=r"config\.json is not JSON"):
        sources.describe(teacher(tmp_path))
    make("llama").save_pretrained(tmp_path / "theirs")
    change(tmp_path / "theirs", unused=json.loads("[" * 400 + "]" * 400))
    with pytest.raises(SprigError, match=r"config\.json is nested more than 64 deep"):
        sources.describe(teacher(tmp_path / "theirs"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_layer": -1}, "n_layer=-1 is not a whole number"),
        ({"n_layer": "abc"}, "n_layer='abc' is not a whole number"),
        ({"n_layer": None}, "n_layer=None is not a whole number"),
        ({"n_layer": 1.5}, "n_layer=1.5 is not a whole number"),
        ({"n_head": 0}, "n_head=0 is not a whole number"),
        ({"head_size": 7, "rotary_percentage": 1.0}, "rotate 7 entries"),
        ({"rotary_percentage": 7}, "rotary_percentage=7 is not a number above 0 and at most 1"),
        ({"rotary_percentage": 0}, "rotary_percentage=0 is not a number above 0"),
        ({"rotary_percentage": -1}, "rotary_percentage=-1 is not a number above 0"),
        ({"block_size": -5}, "block_size=-5 is not a whole number"),
        ({"block_size": "long"}, "block_size='long' is not a whole number"),
        ({"rope_base": 0}, "rope_base=0 is not a number above 0"),
        ({"rope_base": [1]}, r"rope_base=\[1\] is not a number"),
        ({"rope_condense_ratio": 0}, "rope_condense_ratio=0 is not a number above 0"),
        ({"intermediate_size": 0}, "intermediate_size=0 is not a whole number"),
        ({"intermediate_size": 2.0}, "intermediate_size=2.0 is not a whole number"),
        ({"norm_eps": "x"}, "norm_eps='x' is not a number"),
        ({"bias": "no"}, "bias='no' is not true or false"),
        ({"name": 5}, "name=5 is not a text"),
        ({"n_expert": "x"}, "n_expert='x' is not a whole number"),
        ({"rope_adjustments": {"factor": 2.0}}, "rope_adjustments=.* does not have exactly the keys factor, low"),
        ({"rope_adjustments": 3}, "rope_adjustments=3 does not have exactly the keys"),
        ({"gelu_approximate": "fast"}, "gelu_approximate='fast' is not none or tanh"),
        ({"no_such_field": 1}, "'no_such_field' is not a field"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["teacher.litgpt", "model_config.yaml"])
def test_litgpts_own_configurations_are_held_to_the_same(place, fields, message, tmp_path):
    base = {"name": "toy", "n_layer": 2, "n_embd": 32, "n_head": 4, "block_size": 32, "vocab_size": 280}
    if place == "teacher.litgpt":
        subject = teacher(None, source="random", litgpt=base | fields)
    else:
        (tmp_path / "model_config.yaml").write_text(json.dumps(base | fields))
        (tmp_path / "lit_model.pth").write_bytes(b"")
        subject = teacher(tmp_path, source="litgpt")
    with pytest.raises(SprigError, match=rf"is not a litgpt configuration \(.*{message}.*\): correct it") as caught:
        sources.describe(subject)
    assert "\n" not in str(caught.value)
