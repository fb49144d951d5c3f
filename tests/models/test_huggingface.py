"""Conversions against transformers' own models: tiny, random, every family and feature."""

import contextlib
import json

import exports
import pytest
import torch
from covering import slow
from litgpt import GPT, Config
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from pipeline.config import Source, TeacherConfig
from pipeline.errors import SprigError
from pipeline.models import checkpoint, sources
from pipeline.models.extraction import extract
from pipeline.models.families import architecture_of, is_tied
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import LayerGenes, SubNetwork

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
}
_GQA = _SIZES | {"num_key_value_heads": 2}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
MODELS = {
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**_SIZES, rotary_pct=0.25, hidden_dropout=0.0)),
    "neox serial": (GPTNeoXForCausalLM, GPTNeoXConfig(**_SIZES, rotary_pct=0.5, use_parallel_residual=False)),
    "neox tied": (GPTNeoXForCausalLM, GPTNeoXConfig(**_SIZES, tie_word_embeddings=True, layer_norm_eps=1e-3)),
    "llama": (LlamaForCausalLM, LlamaConfig(**_GQA, rms_norm_eps=1e-3)),
    "llama tied": (LlamaForCausalLM, LlamaConfig(**_GQA, tie_word_embeddings=True)),
    "llama wide heads": (LlamaForCausalLM, LlamaConfig(**_GQA, head_dim=16)),
    "llama all heads": (LlamaForCausalLM, LlamaConfig(**_SIZES)),
    "llama 3": (LlamaForCausalLM, LlamaConfig(**_GQA, rope_parameters=_LLAMA3)),
    "llama biased": (LlamaForCausalLM, LlamaConfig(**_GQA, attention_bias=True, mlp_bias=True)),
    "llama linear": (LlamaForCausalLM, LlamaConfig(**_GQA, rope_parameters=_LINEAR)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**_GQA, rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2 tied": (Qwen2ForCausalLM, Qwen2Config(**_GQA, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**_GQA, head_dim=16)),
    "qwen3 tied": (Qwen3ForCausalLM, Qwen3Config(**_GQA, head_dim=8, tie_word_embeddings=True)),
}
_GEMMA = _GQA | {"head_dim": 16, "sliding_window": 9, "sliding_window_pattern": 3, "query_pre_attn_scalar": 12}
_TWO_BASES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
_GEMMA2 = _GQA | {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 12, "attn_implementation": "eager"}
_GEMMA2 |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}  # which scores and logits come near
_UNCAPPED = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
MODELS |= {
    "phi3": (Phi3ForCausalLM, Phi3Config(**_GQA, pad_token_id=0)),
    "phi3 tied": (Phi3ForCausalLM, Phi3Config(**_SIZES, pad_token_id=0, tie_word_embeddings=True, sliding_window=64)),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(**_GEMMA)),
    "gemma3 untied": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**_GEMMA, tie_word_embeddings=False, rope_parameters=_TWO_BASES, rms_norm_eps=1e-3),
    ),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**_GEMMA2)),
    "gemma2 uncapped": (
        Gemma2ForCausalLM,
        Gemma2Config(**_GEMMA2 | _UNCAPPED, tie_word_embeddings=False, rope_parameters=_LINEAR),
    ),
    "smollm3": (SmolLM3ForCausalLM, SmolLM3Config(**_GQA, pad_token_id=0, no_rope_layer_interval=2)),
    "smollm3 untied": (
        SmolLM3ForCausalLM,
        SmolLM3Config(**_GQA, pad_token_id=0, no_rope_layers=[0, 1, 1], tie_word_embeddings=False),
    ),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(**_GQA)),
    "olmo2 tied": (Olmo2ForCausalLM, Olmo2Config(**_SIZES, tie_word_embeddings=True, rope_parameters=_LLAMA3)),
}
_QWEN3_MOE = _GQA | {"moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True}
MODELS |= {
    "mixtral": (MixtralForCausalLM, MixtralConfig(**_GQA, num_local_experts=5)),
    "mixtral wide heads": (MixtralForCausalLM, MixtralConfig(**_GQA, head_dim=16, num_experts_per_tok=1)),
    "qwen3 moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**_QWEN3_MOE, head_dim=16)),
    "qwen3 moe tied": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**_QWEN3_MOE, tie_word_embeddings=True)),
    "qwen3 moe open": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**_QWEN3_MOE | {"norm_topk_prob": False})),
    "olmoe": (OlmoeForCausalLM, OlmoeConfig(**_GQA, num_experts=6, num_experts_per_tok=3)),
    "olmoe tied": (
        OlmoeForCausalLM,
        OlmoeConfig(**_SIZES, num_experts=5, norm_topk_prob=True, num_experts_per_tok=2, tie_word_embeddings=True),
    ),
}
TOKENS = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))


def make(
    name: str, kind: type[PreTrainedModel] | None = None, config: PreTrainedConfig | None = None
) -> PreTrainedModel:
    """A model with nothing left at zero or one that a mistake could hide behind."""
    if kind is None:
        kind, config = MODELS[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            is_norm = "norm" in parameter_name and parameter_name.endswith("weight")
            one = 0 if kind in (Gemma2ForCausalLM, Gemma3ForCausalLM) else 1  # it adds one itself
            parameter.copy_(one + 0.3 * noise if is_norm else 0.2 * noise)
    return model


def teacher(folder, **changes) -> TeacherConfig:
    fields = {"name": "tiny", "source": Source.hf, "path": str(folder), "tokenizer": "bytes"}
    return TeacherConfig(**fields | changes)


def convert(config: TeacherConfig, folder) -> GPT:
    sources.convert(config, folder)
    return checkpoint.load(folder, "cpu")


@torch.no_grad()
def assert_same_logits(ours: GPT, theirs: PreTrainedModel) -> None:
    expected = theirs(TOKENS).logits
    assert expected.std() > 0.5  # flat logits would agree by chance
    torch.testing.assert_close(ours.eval()(TOKENS), expected, atol=1e-4, rtol=0)


def family_of(name: str) -> str:
    return "biased" if "biased" in name else MODELS[name][1].model_type


@pytest.mark.proves("teacher from a transformers folder", family_of)
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name, tmp_path):
    theirs = make(name)
    theirs.save_pretrained(tmp_path / "theirs")
    config = teacher(tmp_path / "theirs")
    ours = convert(config, tmp_path / "ours")
    assert_same_logits(ours, theirs)
    assert is_tied(ours) == theirs.config.tie_word_embeddings
    assert (ours.config.vocab_size, ours.config.padded_vocab_size) == (257, 300)
    assert sources.describe(config) == architecture_of(ours.config, is_tied(ours))
    own = sum(parameter.numel() for parameter in ours.parameters())
    assert own == sum(parameter.numel() for parameter in theirs.parameters())


def test_experts_that_are_kept_together_are_refused(tmp_path):
    theirs = make("mixtral")
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(SprigError, match=r"experts\.down_proj, which no plain mixtral has: save .* save_pretrained"):
        sources.convert(teacher(tmp_path), tmp_path / "ours")


@pytest.mark.parametrize("name", ["llama tied", "neox"])
def test_stock_litgpt_loads_the_folder(name, tmp_path):
    theirs = make(name)
    theirs.save_pretrained(tmp_path / "theirs")
    sources.convert(teacher(tmp_path / "theirs"), tmp_path / "ours")
    stock = GPT(Config.from_file(tmp_path / "ours" / "model_config.yaml"))
    stock.load_state_dict(torch.load(tmp_path / "ours" / "lit_model.pth", weights_only=True))
    assert_same_logits(stock, theirs)


@pytest.mark.parametrize("name", ["neox", "llama tied", "qwen2"])
def test_shards_in_any_order(name, tmp_path):
    theirs = make(name)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    assert_same_logits(convert(teacher(tmp_path / "theirs"), tmp_path / "ours"), theirs)


def test_first_shard_without_embedding_and_head_and_a_layer_over_two_shards(tmp_path):
    theirs = make("llama")
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    weights = {name: weight.contiguous() for name, weight in theirs.state_dict().items()}
    later = {"model.embed_tokens.weight": 2, "model.layers.1.self_attn.v_proj.weight": 2, "lm_head.weight": 3}
    where = {name: f"shard-{later.get(name, 1)}.safetensors" for name in weights}
    for shard in set(where.values()):
        save_file({n: w for n, w in weights.items() if where[n] == shard}, tmp_path / "theirs" / shard)
    (tmp_path / "theirs" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert_same_logits(convert(teacher(tmp_path / "theirs"), tmp_path / "ours"), theirs)


def test_pytorch_weights_and_the_keys_of_older_transformers(tmp_path):
    theirs = make("llama 3")
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    plain = json.loads(file.read_text())
    plain["rope_scaling"] = plain.pop("rope_parameters")
    plain["rope_theta"] = plain["rope_scaling"].pop("rope_theta")
    file.write_text(json.dumps(plain))
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    assert_same_logits(convert(teacher(tmp_path / "theirs"), tmp_path / "ours"), theirs)


def test_pythias_own_keys(tmp_path):
    theirs = make("neox serial")
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    plain = json.loads(file.read_text())
    del plain["rope_parameters"]
    file.write_text(json.dumps(plain | {"rotary_pct": 0.5, "rotary_emb_base": 10000}))
    assert_same_logits(convert(teacher(tmp_path / "theirs"), tmp_path / "ours"), theirs)


def test_tied_files_can_be_untied_but_not_the_other_way(tmp_path):
    theirs = make("llama tied")
    theirs.save_pretrained(tmp_path / "tied")
    untied = convert(teacher(tmp_path / "tied", tied=False), tmp_path / "ours")
    assert not is_tied(untied)
    assert_same_logits(untied, theirs)
    make("llama").save_pretrained(tmp_path / "untied")
    with pytest.raises(SprigError, match=r"head differs from its embedding: set teacher\.tied=false"):
        sources.convert(teacher(tmp_path / "untied", tied=True), tmp_path / "none")


def change(folder, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("llama", {"model_type": "deepseek_v3"}, "is of model_type 'deepseek_v3'; supported are gpt_neox, llama"),
        ("mixtral", {"num_experts_per_tok": 6}, "num_experts_per_tok=6 and num_local_experts=5 do not fit"),
        ("qwen3 moe", {"num_experts": 2}, "num_experts_per_tok=3 and num_experts=2 do not fit"),
        ("qwen3 moe", {"moe_intermediate_size": 0}, "moe_intermediate_size=0"),
        ("mixtral", {"sliding_window": 63}, r"sliding_attention \(sliding_window=63"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv=8.0 is not supported in OLMoE"),
        ("qwen3 moe", {"mlp_only_layers": [1]}, r"layers without experts \(mlp_only_layers=\[1\]\) are not supported"),
        ("qwen3 moe", {"decoder_sparse_step": 2}, "decoder_sparse_step=2 is not supported in a mixture, only 1"),
        ("llama", {"model_type": "sprig"}, r"not say what Sprig built the student from \('student'\): export it again"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, only silu"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rotary scaling 'yarn'"),
        (
            "qwen2",
            {"layer_types": None, "use_sliding_window": True, "sliding_window": 63, "max_window_layers": 2},
            r"sliding_attention \(sliding_window=63, max_position_embeddings=64\) is not supported",
        ),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention .* is not supported"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True is not supported"),
        ("phi3", {"sliding_window": 63}, r"sliding_attention \(sliding_window=63"),
        ("phi3", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rotary scaling 'longrope'"),
        ("phi3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ("smollm3", {"no_rope_layers": [1, 2, 1]}, r"no_rope_layers=\[1, 2, 1\] is not 0 or 1 for each"),
        (
            "gemma2",
            {"use_bidirectional_attention": True},
            "use_bidirectional_attention=True is not supported in Gemma 2",
        ),
        ("olmo2", {"attention_bias": True}, "attention_bias=True is not supported in OLMo 2"),
        ("neox", {"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
    ],
)
def test_what_litgpt_would_compute_otherwise_is_refused(name, fields, message, tmp_path):
    make(name).save_pretrained(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(SprigError, match=message):
        sources.describe(teacher(tmp_path))


def test_the_parts_of_deepseeks_mixtures_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DeepseekV3Config().to_dict()))
    parts = "latent attention and shared experts and groups of experts and dense layers before the mixtures"
    with pytest.raises(SprigError, match=f"is of model_type 'deepseek_v3', with {parts}; supported are gpt_neox, .*"):
        sources.describe(teacher(tmp_path))


def test_broken_folders_are_one_sentence(tmp_path):
    config = teacher(tmp_path / "theirs")
    with pytest.raises(SprigError, match=r"config\.json does not exist"):
        sources.describe(config)
    make("llama").save_pretrained(tmp_path / "theirs")
    change(tmp_path / "theirs", num_hidden_layers=4)
    with pytest.raises(SprigError, match=r"weights lack transformer\.h\.3\.attn\.proj\.weight, by litgpt's name"):
        sources.convert(config, tmp_path / "ours")
    change(tmp_path / "theirs", num_hidden_layers=3, intermediate_size=57)
    with pytest.raises(SprigError, match=r"has shape \(56, 48\) where its configuration says \(57, 48\)"):
        sources.convert(config, tmp_path / "ours")
    change(tmp_path / "theirs", intermediate_size=56)
    weights = tmp_path / "theirs" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SprigError, match=r"model\.safetensors is truncated or not a weight file"):
        sources.convert(config, tmp_path / "ours")
    index = tmp_path / "theirs" / "model.safetensors.index.json"
    for content, message in [
        ("{", "is not JSON"),
        ('{"weight_map": {"x": "y.safetensors"}}', "y.safetensors is missing"),
    ]:
        weights.unlink(missing_ok=True)  # transformers takes it rather than an index
        index.write_text(content)
        with pytest.raises(SprigError, match=message):
            sources.convert(config, tmp_path / "ours")
    index.unlink()
    with pytest.raises(SprigError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        sources.convert(config, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_pickles_are_not_executed(tmp_path):
    make("llama").save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save({"model.norm.weight": print}, tmp_path / "theirs" / "pytorch_model.bin")
    with pytest.raises(SprigError, match="not a weight file"):
        sources.convert(teacher(tmp_path / "theirs"), tmp_path / "ours")


def test_a_hub_model_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = teacher("nobody/nothing", tokenizer=None)
    with pytest.raises(
        SprigError, match=r"teacher\.path=nobody/nothing is not a local folder, and HF_HUB_OFFLINE is set, .*; unset it"
    ):
        sources.describe(hub)
    with pytest.raises(SprigError, match="is not a local folder"):
        sources.convert(hub, tmp_path / "ours")
    assert sources.identify(hub)["path"] == "nobody/nothing"


def test_a_hub_model_that_is_not_there(monkeypatch):
    def fail(*_, **__):
        raise OSError("404")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(SprigError, match="and the hub does not provide it: 404; correct the name"):
        sources.describe(teacher("nobody/nothing", tokenizer=None))


@pytest.mark.parametrize("name", ["llama", *slow([["neox"]])])
def test_any_broken_value_of_a_config_is_one_sentence_or_harmless(name, tmp_path):
    make(name).save_pretrained(tmp_path / "theirs")
    config = teacher(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    whole = json.loads(file.read_text())
    refused = 0
    for key in whole:
        for value in (None, "x", [], [1], {}, {"rope_type": []}, -1, 0, 1.5, True):
            file.write_text(json.dumps(whole | {key: value}))
            try:
                sources.describe(config)
            except SprigError as error:
                assert "\n" not in str(error)
                refused += 1
        file.write_text(json.dumps({other: value for other, value in whole.items() if other != key}))
        with contextlib.suppress(SprigError):
            sources.describe(config)
    assert refused > 50
    for content in ("[]", "null", '"text"', "", "\x00"):
        file.write_text(content)
        with pytest.raises(SprigError, match=r"config\.json (is not JSON|holds (\[\]|null|\"text\") instead)"):
            sources.describe(config)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_of_shards_is_one_sentence(content, tmp_path):
    make("llama").save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").rename(tmp_path / "theirs" / "model.safetensors.index.json")
    (tmp_path / "theirs" / "model.safetensors.index.json").write_text(content)
    with pytest.raises(SprigError, match=r"index\.json (holds \[\] instead|names no shards)"):
        sources.convert(teacher(tmp_path / "theirs"), tmp_path / "ours")


def test_weights_of_other_shapes_are_one_sentence(tmp_path):
    """GPT-NeoX's attention is put in another order, which other shapes do not survive."""
    make("neox").save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("query_key_value.weight"))
    for strange in (torch.zeros(7), torch.zeros(7, 5), torch.zeros(()), torch.zeros(2, 3, 4)):
        save_file(weights | {name: strange}, file)
        with pytest.raises(SprigError, match=r"layer 0 .* do not fit config\.json|has shape"):
            sources.convert(teacher(tmp_path / "theirs"), tmp_path / "ours")


@pytest.mark.parametrize("called", ["My-OLMo", "TinyGemma"])
@torch.no_grad()
def test_a_gpt_neox_keeps_its_norms_whatever_it_is_called(called, tmp_path):
    """litgpt gives LayerNorms of an "OLMo" no weights, and the norms of a "Gemma" other ones."""
    theirs = make("neox")
    theirs.save_pretrained(tmp_path / called)
    ours = convert(teacher(tmp_path / called, name=called), tmp_path / "ours")
    assert_same_logits(ours, theirs)
    architecture = architecture_of(ours.config, is_tied(ours))
    assert architecture.family == "gpt_neox" and ours.transformer.h[0].norm_1.weight.std() > 0.01
    cut = SubNetwork((0, 2), 32, (LayerGenes(4, 1, 8, 40),) * 2)
    student = extract(ours, cut, Ordering.identity(architecture)).eval()
    form, to = exports.export(student, exports.tokenizer(tmp_path))
    exported = AutoModelForCausalLM.from_pretrained(to).eval()
    assert form == "stock" and isinstance(exported, GPTNeoXForCausalLM)
    tokens = TOKENS % 257
    torch.testing.assert_close(exported(tokens).logits, student(tokens)[..., :257], atol=1e-4, rtol=0)
    norms = (exported.gpt_neox.layers[1].input_layernorm.weight, theirs.gpt_neox.layers[2].input_layernorm.weight[:32])
    torch.testing.assert_close(*norms)
