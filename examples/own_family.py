"""Your own model family, used without editing Sprig: StableLM.

PYTHONPATH=examples sprig experiment=quickstart teacher=local teacher.source=hf teacher.path=FOLDER \
    teacher.family=own_family.STABLELM export.form=own
"""

from typing import Any

from pipeline.models.families import reading as read
from pipeline.models.families.family import Described, Family, Names, Stock

NAMES = Names("model", "embed_tokens", "norm", "lm_head", read.LLAMA_NAMES.parts)
FIELDS = {"norm_class_name": "LayerNorm", "mlp_class_name": "LLaMAMLP", "bias": False, "parallel_residual": False}


def describe(plain: dict[str, Any]) -> Described:
    """A config.json in litgpt's terms, with transformers' defaults for missing keys."""
    read.refuse_keys(plain, "StableLM", "use_parallel_residual", "qk_layernorm")
    read.activation(plain, ("silu",), "silu")
    rope, given = read.rope(plain, "rope_theta")
    share = given.get("partial_rotary_factor", plain.get("partial_rotary_factor", 0.25))
    fields = {
        "attn_bias": read.flag(plain, "use_qkv_bias", False),
        "n_query_groups": plain.get("num_key_value_heads", 32),
        "norm_eps": plain.get("layer_norm_eps", 1e-5),
        "rotary_percentage": share,
    }
    config = read.checked_keys(FIELDS | read.sizes(plain) | rope | fields)
    return Described(config, read.flag(plain, "tie_word_embeddings", False), NAMES)


STABLELM = Family(
    name="stablelm",
    called="StableLM",
    parts={"norm": ("LayerNorm",), "biases": ("none", "attention")},
    names=NAMES,
    readers={"stablelm": describe},
    stock=Stock("stablelm", "StableLmForCausalLM"),
)
