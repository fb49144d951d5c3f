"""A causal language model whose layers have sizes of their own, cut out of a GPT-NeoX, Llama, Qwen2 or Qwen3 model.

Written by Sprig beside the weights; needs torch and transformers (5.3 or newer) alone. Load it with
AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).
"""

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class SprigConfig(PreTrainedConfig):
    """`layers` has one dictionary a layer: num_attention_heads, num_key_value_heads, head_dim, intermediate_size.
    `rope_frequencies` gives, for each head_dim, the radians a position of its rotary pairs: entries i and i + pairs
    turn together, entries beyond twice the pairs do not turn."""

    model_type = "sprig"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(
        self,
        vocab_size=256,
        hidden_size=64,
        layers=(),
        rope_frequencies=None,
        max_position_embeddings=128,
        hidden_act="silu",
        norm="rms",
        norm_eps=1e-5,
        bias=False,
        attention_bias=False,
        head_bias=False,
        gated_mlp=True,
        qk_norm=False,
        parallel_residual=False,
        initializer_range=0.02,
        use_cache=True,
        tie_word_embeddings=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.layers = list(layers)
        self.rope_frequencies = rope_frequencies or {}
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.norm, self.norm_eps = norm, norm_eps
        self.bias, self.attention_bias, self.head_bias = bias, attention_bias, head_bias
        self.gated_mlp, self.qk_norm, self.parallel_residual = gated_mlp, qk_norm, parallel_residual
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**{**kwargs, "num_hidden_layers": len(self.layers)})


def make_norm(config, size):
    return (nn.LayerNorm if config.norm == "layer" else nn.RMSNorm)(size, eps=config.norm_eps)


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """query (B, heads, T, D), key and value (B, groups, S, D), mask additive or None; returns (B, T, heads, D)."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    shares = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    shares = nn.functional.dropout(shares, p=dropout, training=module.training)
    return (shares @ value).transpose(1, 2), shares


def rotate(x, cos, sin):
    """Turns the first entries of x (B, heads, T, D), as many as cos and sin (B, 1, T, rotary) have."""
    turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    one, two = turning.chunk(2, dim=-1)
    return torch.cat([turning * cos + torch.cat([-two, one], dim=-1) * sin, still], dim=-1)


class SprigAttention(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        sizes = config.layers[number]
        heads, groups, self.head_dim = sizes["num_attention_heads"], sizes["num_key_value_heads"], sizes["head_dim"]
        self.config, self.number, self.is_causal = config, number, True
        self.num_key_value_groups = heads // groups
        width, bias = config.hidden_size, config.attention_bias
        self.q = nn.Linear(width, heads * self.head_dim, bias=bias)
        self.k = nn.Linear(width, groups * self.head_dim, bias=bias)
        self.v = nn.Linear(width, groups * self.head_dim, bias=bias)
        self.out = nn.Linear(heads * self.head_dim, width, bias=config.bias)
        self.q_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, self.head_dim) if config.qk_norm else nn.Identity()

    def forward(self, x, rotary, mask, cache, cache_position, **kwargs):
        cos, sin = rotary[str(self.head_dim)]
        query, key, value = (
            each(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for each in (self.q, self.k, self.v)
        )
        query, key = rotate(self.q_norm(query), cos, sin), rotate(self.k_norm(key), cos, sin)
        if cache is not None:
            places = {"sin": sin, "cos": cos, "cache_position": cache_position}
            key, value = cache.update(key, value, self.number, places)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, _ = attend(self, query, key, value, mask, scaling=self.head_dim**-0.5, dropout=0.0, **kwargs)
        return self.out(mixed.flatten(2))


class SprigMLP(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        width, neurons, bias = config.hidden_size, config.layers[number]["intermediate_size"], config.bias
        self.gate = nn.Linear(width, neurons, bias=bias) if config.gated_mlp else None
        self.up = nn.Linear(width, neurons, bias=bias)
        self.down = nn.Linear(neurons, width, bias=bias)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x):
        return self.down(self.act(self.up(x)) if self.gate is None else self.act(self.gate(x)) * self.up(x))


class SprigLayer(GradientCheckpointingLayer):
    def __init__(self, config, number):
        super().__init__()
        self.attention_norm, self.mlp_norm = (make_norm(config, config.hidden_size) for _ in range(2))
        self.attention, self.mlp = SprigAttention(config, number), SprigMLP(config, number)
        self.parallel = config.parallel_residual

    def forward(self, x, rotary, mask, past_key_values=None, cache_position=None, **kwargs):
        attention = self.attention(self.attention_norm(x), rotary, mask, past_key_values, cache_position, **kwargs)
        attended = x + attention
        return attended + self.mlp(self.mlp_norm(x if self.parallel else attended))


class SprigForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = SprigConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = ["SprigLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(SprigLayer(config, number) for number in range(len(config.layers)))
        self.norm = make_norm(config, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.post_init()

    def tie_weights(self, missing_keys=None, **kwargs):
        # transformers 5.3 takes the tied head of a remote modelling file for one that the weights hold, and leaves it
        # empty: say that it is missing.
        if missing_keys is not None and self.config.tie_word_embeddings:
            missing_keys.add("lm_head.weight")
        super().tie_weights(missing_keys=missing_keys, **kwargs)

    def _rotary(self, x, position_ids):
        """For each head size cos and sin (B, 1, T, rotary), made in fp32 whatever the model's dtype."""
        tables = {}
        for size, frequencies in self.config.rope_frequencies.items():
            turns = torch.tensor(frequencies, dtype=torch.float32, device=x.device)
            angles = position_ids[:, None, :, None].float() * turns
            angles = torch.cat([angles, angles], dim=-1)
            tables[size] = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        return tables

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        cache_position=None,
        logits_to_keep=0,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        """Token numbers (B, T) to logits (B, T, vocabulary), or only the last `logits_to_keep` of them."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if (self.config.use_cache if use_cache is None else use_cache) and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if cache_position is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            cache_position = torch.arange(seen, seen + x.shape[1], device=x.device)
        if position_ids is None:
            position_ids = cache_position[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            cache_position=cache_position,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        rotary = self._rotary(x, position_ids)
        keep = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states = ()
        for layer in self.layers:
            states += (x,) if keep else ()
            # By this name the layer drops the cache where activations are computed twice (gradient checkpointing).
            x = layer(x, rotary, mask, past_key_values=past_key_values, cache_position=cache_position, **kwargs)
        x = self.norm(x)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=(*states, x) if keep else None,
        )
        return output.to_tuple() if return_dict is False else output
