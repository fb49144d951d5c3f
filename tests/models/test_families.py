import dataclasses

import pytest
import tiny
from litgpt import Config

from pipeline.errors import SprigError
from pipeline.models.families import architecture_of, checked


def vars_of(name: str) -> dict:
    return {field.name: getattr(Config.from_name(name), field.name) for field in dataclasses.fields(Config)}


@pytest.mark.parametrize(
    "name, family, flags",
    [
        ("pythia-410m", "gpt_neox", {"bias": True, "attention_bias": True, "layer_norm": True, "gated_mlp": False}),
        ("SmolLM2-135M-Instruct", "llama", {"bias": False, "attention_bias": False, "layer_norm": False}),
        ("Llama-3.2-1B", "llama", {"rope_adjusted": True, "rope_base": 500000, "gated_mlp": True}),
        ("Qwen2.5-0.5B", "qwen2", {"bias": False, "attention_bias": True, "rope_adjusted": False}),
        ("Qwen3-0.6B", "qwen3", {"qk_norm": True, "head_size": 128, "n_embd": 1024, "heads_per_group": 2}),
        ("Gemma-2-2b", "gemma2", {"norms": 4, "qk_norm": False, "capped_scores": True, "capped_logits": True}),
        ("Gemma-3-1b-it", "gemma3", {"norms": 4, "qk_norm": True, "gated_mlp": True, "rope_adjusted": True}),
        ("OLMo-2-1124-7B", "olmo2", {"norms": 2, "norms_before": False, "qk_norm_over_heads": True}),
        ("Mixtral-8x7B-v0.1", "mixtral", {"n_expert": 8, "n_expert_per_token": 2, "intermediate_size": 14336}),
        ("Qwen3-30B-A3B", "qwen3_moe", {"n_expert": 128, "n_expert_per_token": 8, "intermediate_size": 768}),
    ],
)
def test_litgpt_configs_are_described(name, family, flags):
    config = checked(vars_of(name))
    architecture = architecture_of(config, tied=True)
    assert architecture.family == family and architecture.tied and architecture.context == config.block_size
    assert {flag: getattr(architecture, flag) for flag in flags} == flags
    assert architecture.rope_entries == config.rope_n_elem


@pytest.mark.parametrize(
    "name",
    ["phi-2", "Gemma-2b", "Gemma-3-1b-it", "falcon-7b", "OLMo-1B-hf", "Phi-3-mini-4k-instruct"],
)  # fmt: skip
def test_what_cannot_be_cut_is_named(name):
    config = Config.from_name(name)
    with pytest.raises(SprigError, match=config.name):
        architecture_of(config, tied=False)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"sliding_window_size": 8}, "sliding window"),
        ({"attention_scores_scalar": 8}, "attention scale"),
        ({"final_logit_softcapping": 30.0}, "soft-capped"),
        ({"scale_embeddings": True}, "scaled embeddings"),
        ({"post_mlp_norm": True}, "norms after"),
        ({"rope_interleave": True}, "interleaved"),
        ({"norm_qk": True, "norm_qk_type": "olmo2"}, "over all heads"),
        ({"rope_adjustments": {"factor": 2.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_seq_len": 8}}, "YaRN"),
        ({"norm_qk": True, "attn_bias": True}, "q and k norms, which Sprig does not support in a Qwen2.5 model"),
        ({"parallel_residual": True}, "parallel attention and MLP"),
        ({"mlp_class_name": "LLaMAMoE", "n_expert": 4, "bias": True}, "has biases .all., .* in a Mixtral model"),
    ],
)
def test_each_unsupported_part_is_named(change, named):
    with pytest.raises(SprigError, match=named):
        architecture_of(dataclasses.replace(tiny.config("llama"), **change), tied=False)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"n_shared_expert": 1}, "has shared experts"),
        ({"routed_scaling_factor": None}, "has routing weights that do not sum to 1"),
        (
            {"n_expert": 6, "n_expert_groups": 2, "n_topk_groups": 1, "n_topk_scores_per_group": 1},
            "has groups of experts with sigmoid routing",
        ),
        ({"routed_scaling_factor": 2.5}, "has a factor on what is routed"),
        ({"first_k_dense_replace": 1}, "has dense layers before the mixtures"),
    ],
)
def test_each_unsupported_part_of_a_mixture_is_named(change, named):
    with pytest.raises(SprigError, match=f"{named}, which Sprig does not support in a Mixtral model"):
        architecture_of(dataclasses.replace(tiny.config("mixtral"), **change), tied=False)


@pytest.mark.parametrize("experts, passed", [(2, 3), (0, 0), (4, 0)])
def test_a_token_passes_no_more_experts_than_there_are(experts, passed):
    given = vars_of("Mixtral-8x7B-v0.1") | {"n_expert": experts, "n_expert_per_token": passed}
    with pytest.raises(SprigError, match=f"n_expert_per_token={passed} and n_expert={experts} do not fit"):
        checked(given)
