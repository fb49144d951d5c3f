"""Which litgpt models Sprig can cut, and their description as an Architecture."""

from litgpt import GPT, Config

from pipeline.errors import SprigError
from pipeline.subnetwork.architecture import Architecture

# What extraction, counting and export do not cover. litgpt switches some of them on through a model's name alone.
_UNSUPPORTED = {
    "a mixture of experts": lambda c: c.n_expert > 0 or c.mlp_class_name == "LLaMAMoE",
    "latent attention": lambda c: c.latent_attention is not None,
    "sliding window attention": lambda c: c.sliding_window_size is not None,
    "an attention norm shared with the MLP": lambda c: c.shared_attention_norm,
    "norms after attention or MLP": lambda c: c.post_attention_norm or c.post_mlp_norm,
    "blocks without norms": lambda c: not (c.norm_1 and c.norm_2),
    "scaled embeddings": lambda c: c.scale_embeddings,
    "soft-capped logits": lambda c: c.final_logit_softcapping is not None or c.attention_logit_softcapping is not None,
    "an attention scale of its own": lambda c: c.attention_scores_scalar is not None,
    "q and k norms over all heads": lambda c: c.norm_qk and c.norm_qk_type != "default",
    "interleaved rotary entries": lambda c: c.rope_interleave,
    "local rotary frequencies": lambda c: c.rope_local_base_freq is not None or c.rope_indices is not None,
    "YaRN rotary scaling": lambda c: "beta_fast" in (c.rope_adjustments or {}),
    "Gemma's or OLMo's norms": lambda c: "Gemma" in c.name or "OLMo" in c.name,
}


def _family(config: Config) -> str | None:
    shape = (config.mlp_class_name, config.norm_class_name, config.bias)
    if shape == ("GptNeoxMLP", "LayerNorm", True) and not config.norm_qk:
        return "gpt_neox"
    if shape != ("LLaMAMLP", "RMSNorm", False) or config.parallel_residual:
        return None
    return {(False, False): "llama", (True, False): "qwen2", (False, True): "qwen3"}.get(
        (config.attn_bias, config.norm_qk)
    )


def architecture_of(config: Config, tied: bool) -> Architecture:
    """The sizes and family of a litgpt model; `tied` says whether head and embedding share weights.

    Raises:
        SprigError: the model has a part that Sprig cannot cut, or is of no supported family.
    """
    for part, present in _UNSUPPORTED.items():
        if present(config):
            raise SprigError(
                f"{config.name} has {part}, which Sprig does not support: use a plain GPT-NeoX, Llama, Qwen2.5 or "
                "Qwen3 model."
            )
    family = _family(config)
    if family is None:
        raise SprigError(
            f"{config.name} ({config.mlp_class_name}, {config.norm_class_name}, bias={config.bias}, attn_bias="
            f"{config.attn_bias}, norm_qk={config.norm_qk}, parallel_residual={config.parallel_residual}) is of no "
            "supported family: use a GPT-NeoX, Llama, Qwen2.5 or Qwen3 model."
        )
    return Architecture(
        name=config.name,
        family=family,
        n_layer=config.n_layer,
        n_embd=config.n_embd,
        n_head=config.n_head,
        n_query_groups=config.n_query_groups,
        head_size=config.head_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        padded_vocab_size=config.padded_vocab_size,
        context=config.block_size,
        tied=tied,
        bias=config.bias,
        attention_bias=config.bias or config.attn_bias,
        lm_head_bias=config.lm_head_bias,
        layer_norm=config.norm_class_name == "LayerNorm",
        gated_mlp=config.mlp_class_name == "LLaMAMLP",
        qk_norm=config.norm_qk,
        rotary_percentage=config.rotary_percentage,
        rope_base=config.rope_base,
        rope_adjusted=config.rope_adjustments is not None,
    )


def is_tied(model: GPT) -> bool:
    """Whether head and embedding are one parameter."""
    return model.lm_head.weight is model.transformer.wte.weight
