"""A student in the names and the configuration of its family's stock transformers class."""

import torch
from litgpt import GPT
from torch import Tensor

from pipeline.models.export.blocks import held_pairs, sizes, weights
from pipeline.models.export.padding import Target, pad
from pipeline.models.families import architecture_of, is_tied

CLASSES = {
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_LLAMA = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_NEOX = {
    "qkv": "attention.query_key_value",
    "out": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_ACTIVATIONS = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}  # of litgpt's gelu_approximate


def common_config(model: GPT) -> dict:
    """What config.json says in every form. The vocabulary's padding rows are left behind."""
    config = model.config
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "max_position_embeddings": config.block_size,
        "hidden_act": "silu" if config.mlp_class_name == "LLaMAMLP" else _ACTIVATIONS[config.gelu_approximate],
        "tie_word_embeddings": is_tied(model),
        "use_cache": True,
        "dtype": "float32",
    }


def config_json(model: GPT, target: Target) -> dict:
    """config.json of the stock class."""
    config, size = model.config, target.sizes
    family = architecture_of(config, is_tied(model)).family
    plain = common_config(model) | {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "num_attention_heads": size.groups * size.heads,
        "intermediate_size": size.neurons,
        "rope_parameters": _rope(model, target),
    }
    if family == "gpt_neox":
        share = size.rotary / size.head_size
        if int(size.head_size * share) < size.rotary:  # the class truncates, and the product may fall short by an ulp
            share = (size.rotary + 0.5) / size.head_size
        plain["rope_parameters"]["partial_rotary_factor"] = share
        return plain | {
            "rotary_pct": share,  # transformers reads the share from here alone
            "layer_norm_eps": config.norm_eps,
            "use_parallel_residual": config.parallel_residual,
            "attention_bias": True,
        }
    plain |= {"num_key_value_heads": size.groups, "head_dim": size.head_size, "rms_norm_eps": config.norm_eps}
    unbiased = {"attention_bias": False}  # in Qwen2, q, k and v always have one
    extra = {"llama": unbiased | {"mlp_bias": False}, "qwen2": {}, "qwen3": unbiased}[family]
    return plain | extra | ({} if family == "llama" else {"use_sliding_window": False})


def _rope(model: GPT, target: Target) -> dict:
    """A run of pairs (first, step, m of n/2) is base B**(step*m/(n/2)) and positions divided by B**(first/(n/2)),
    which transformers calls linear scaling."""
    config, pairs = model.config, target.sizes.rotary // 2
    base = float(config.rope_base)
    if (adjusted := config.rope_adjustments) is not None:
        return {
            "rope_type": "llama3",
            "rope_theta": base,
            "factor": adjusted["factor"],
            "low_freq_factor": adjusted["low_freq_factor"],
            "high_freq_factor": adjusted["high_freq_factor"],
            "original_max_position_embeddings": adjusted["original_max_seq_len"],
        }
    theta = base ** (target.step * pairs / target.total)
    factor = float(config.rope_condense_ratio) * base ** (target.first / target.total)
    if factor == 1:
        return {"rope_type": "default", "rope_theta": theta}
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def state_dict(model: GPT, target: Target) -> dict[str, Tensor]:
    """Weights under the stock class's names; a tied head is left out."""
    neox = architecture_of(model.config, is_tied(model)).family == "gpt_neox"
    prefix, names = ("gpt_neox", _NEOX) if neox else ("model", _LLAMA)
    embedding, norm, head = (
        ("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out")
        if neox
        else ("model.embed_tokens", "model.norm", "lm_head")
    )
    state = ends(model, embedding, norm, head)
    _, held = held_pairs(model)
    for number, (block, run) in enumerate(zip(model.transformer.h, held, strict=True)):
        parts = pad(weights(block), sizes(block), run, target)
        for name, tensor in (_joined(parts) if neox else flat(parts)).items():
            module, kind = name.split(".")
            state[f"{prefix}.layers.{number}.{names[module]}.{kind}"] = tensor
    return state


def ends(model: GPT, embedding: str, norm: str, head: str) -> dict[str, Tensor]:
    """Embedding, last norm and head under these names, without the vocabulary's padding rows; a tied head is left
    out."""
    rows = model.config.vocab_size
    state = {f"{embedding}.weight": model.transformer.wte.weight.detach()[:rows].clone()}
    state |= {f"{norm}.{kind}": tensor.detach() for kind, tensor in model.transformer.ln_f.named_parameters()}
    for kind, tensor in model.lm_head.named_parameters():
        if kind == "bias" or not is_tied(model):
            state[f"{head}.{kind}"] = tensor.detach()[:rows].clone()
    return state


def flat(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Heads and their entries on one axis again."""
    flat = {}
    for name, tensor in parts.items():
        if name.partition(".")[0] in ("q", "k", "v"):
            tensor = tensor.flatten(0, 2)
        elif name == "out.weight":
            tensor = tensor.flatten(1)
        flat[name] = tensor.contiguous()
    return flat


def _joined(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-NeoX keeps q, k and v of one head together."""
    joined = {name: tensor for name, tensor in parts.items() if name.partition(".")[0] not in ("q", "k", "v")}
    for kind in ("weight", "bias"):
        heads = torch.cat([parts[f"{name}.{kind}"] for name in "qkv"], dim=1)
        joined[f"qkv.{kind}"] = heads.flatten(0, 2)
    return flat(joined)
