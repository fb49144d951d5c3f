"""A student as it is, with a modelling file of its own that travels with it."""

from dataclasses import asdict, replace
from pathlib import Path

from litgpt import GPT
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models.blocks import flat, frequencies, rope_name, sizes, weights
from pipeline.models.experts import has_open_weights
from pipeline.models.export.stock import common_config, ends
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.own_folder import MODEL_TYPE
from pipeline.models.positions import is_windowed
from pipeline.models.student import LayerwiseGPT
from pipeline.models.tokenizer import read_json

MODELING = Path(__file__).with_name("modeling_sprig.py")
# The code that transformers runs for this form, and nothing else of a folder's.
_AUTO_MAP = {
    "AutoConfig": f"{MODELING.stem}.SprigConfig",
    "AutoModelForCausalLM": f"{MODELING.stem}.SprigForCausalLM",
}
_ATTENTION = ("q", "k", "v", "out", "q_norm", "k_norm")
_MLP = ("gate", "up", "down", "router", "experts")


def config_json(model: GPT) -> dict:
    """config.json for SprigForCausalLM; `student` is for Sprig, to which the folder may be the next teacher."""
    config = model.config
    architecture = architecture_of(config, is_tied(model))
    blocks = [sizes(block) for block in model.transformer.h]
    return common_config(model) | {
        "architectures": ["SprigForCausalLM"],
        "model_type": MODEL_TYPE,
        "auto_map": _AUTO_MAP,
        "student": {
            # hf_config is whatever the teacher's folder says, and Sprig does not read it.
            "litgpt": asdict(replace(config, padded_vocab_size=config.vocab_size, hf_config={})),
            "subnetwork": model.sub.to_dict() if isinstance(model, LayerwiseGPT) else None,
        },
        "layers": [
            {
                "num_attention_heads": block.groups * block.heads,
                "num_key_value_heads": block.groups,
                "head_dim": block.head_size,
                "intermediate_size": block.neurons,
                "rope": rope_name(model, number),
                "window": config.sliding_window_size if is_windowed(model, number) else None,
            }
            | ({"experts": block.experts, "experts_per_token": block.passed} if block.experts else {})
            for number, block in enumerate(blocks)
        ],
        "rope_frequencies": frequencies(model),
        "norm": "layer" if architecture.layer_norm else "rms",
        "norm_eps": config.norm_eps,
        "bias": architecture.bias,
        "attention_bias": architecture.attention_bias,
        "head_bias": architecture.lm_head_bias,
        "gated_mlp": architecture.gated_mlp,
        "qk_norm": architecture.qk_norm,
        "qk_norm_over_heads": architecture.qk_norm_over_heads,
        "norms_before": architecture.norms_before,
        "norms_after": architecture.norms_after,
        "embedding_scale": config.n_embd**0.5 if config.scale_embeddings else 1.0,
        "attention_cap": config.attention_logit_softcapping,
        "logit_cap": config.final_logit_softcapping,
        "parallel_residual": config.parallel_residual,
        "open_weights": has_open_weights(config),
    }


def runs_our_code(folder: Path) -> bool:
    """Whether transformers needs code from the folder to load its model: Sprig's own modelling file, unchanged.

    Raises:
        SprigError: the folder asks for other code.
    """
    named = read_json(folder / "config.json").get("auto_map")
    if named is None:
        return False
    file = folder / MODELING.name
    if named != _AUTO_MAP or not file.is_file() or file.read_bytes() != MODELING.read_bytes():
        raise SprigError(f"{folder} asks transformers to run code that is not Sprig's: do not load it.")
    return True


def state_dict(model: GPT) -> dict[str, Tensor]:
    """Weights under the names of SprigForCausalLM; a tied head is left out."""
    state = ends(model, "embed_tokens", "norm", "lm_head")
    for number, block in enumerate(model.transformer.h):
        for name, tensor in flat(weights(block)).items():
            module = name.partition(".")[0]
            place = "attention." if module in _ATTENTION else "mlp." if module in _MLP else ""
            state[f"layers.{number}.{place}{name}"] = tensor
    return state
