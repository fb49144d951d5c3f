"""A causal language model whose layers have sizes of their own, cut out of a larger model.

Written by Sprig next to the weights. It needs torch and transformers alone, of which it was tried with 4.57, 5.3, 5.9,
5.12 and 5.24. Load it with AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).
"""

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutputWithPast

# What transformers calls a KV cache: `cache` in recent versions, `past_key_values` before.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
DEFAULTS = {"vocab_size": 256, "hidden_size": 64, "max_position_embeddings": 128, "hidden_act": "silu", "norm": "rms"}
DEFAULTS |= {"norm_eps": 1e-5, "bias": False, "attention_bias": False, "head_bias": False, "gated_mlp": True}
DEFAULTS |= {"qk_norm": False, "qk_norm_over_heads": False, "norms_before": True, "norms_after": False}
DEFAULTS |= {"embedding_scale": 1.0, "attention_cap": None, "logit_cap": None, "parallel_residual": False}
DEFAULTS |= {"open_weights": False, "initializer_range": 0.02, "use_cache": True}


class SprigConfig(PretrainedConfig):
    """`layers` has one dictionary a layer: num_attention_heads, num_key_value_heads, head_dim, intermediate_size,
    `rope`, and `window`, how many tokens it sees, or None for all. `rope_frequencies` gives, for each `rope`, the
    radians a position of its rotary pairs: entries i and i + pairs turn together, entries beyond twice the pairs do
    not turn. In a mixture, a layer also has `experts` MLPs, and a token passes `experts_per_token` of them."""

    model_type = "sprig"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(self, layers=(), rope_frequencies=None, tie_word_embeddings=False, **kwargs):
        self.layers, self.rope_frequencies = list(layers), rope_frequencies or {}
        for name, default in DEFAULTS.items():
            setattr(self, name, kwargs.pop(name, default))
        # transformers 4 takes a model for tied unless this says otherwise.
        kwargs |= {"num_hidden_layers": len(self.layers), "tie_word_embeddings": tie_word_embeddings}
        super().__init__(**kwargs)


def make_norm(config, size):
    return (nn.LayerNorm if config.norm == "layer" else nn.RMSNorm)(size, eps=config.norm_eps)


class Mask:
    """Which keys the queries may look at: none behind them, and none of the padding.

    `attention_mask` is None, (B, S) with 0 for padding, or (B, 1, T, S), boolean or to be added to the scores; `places`
    (T) are the queries' places among the keys. A cache may hold more keys than were seen: `of` takes their number.
    """

    def __init__(self, attention_mask, places, first):
        self.given, self.places, self.made = attention_mask, places, {}
        self.plain = attention_mask is None or (attention_mask.dim() == 2 and bool(attention_mask.all()))
        self.first = first  # nothing was seen before: the queries' keys are the only ones

    def of(self, keys, window):
        """The mask for `keys` keys, of which the last `window` are seen: (T, keys) or (B, 1, T, keys)."""
        if (keys, window) not in self.made:
            self.made[keys, window] = self._make(keys, window)
        return self.made[keys, window]

    def _make(self, keys, window):
        numbers, places = torch.arange(keys, device=self.places.device), self.places[:, None]
        near = numbers > places - (keys if window is None else window)
        if self.given is not None and self.given.dim() == 4:
            given = self.given[..., :keys]
            return given & near if given.dtype == torch.bool else given.masked_fill(~near, torch.finfo(given.dtype).min)
        seen = (numbers <= places) & near
        if not self.plain:
            padding = nn.functional.pad(self.given.bool(), (0, keys - self.given.shape[1]))[:, None, None]
            seen = (seen & padding) | (numbers == places)  # a softmax over nothing is not a number
        return seen

    def is_causal(self, keys, window):
        return self.plain and self.first and keys == len(self.places) and (window is None or keys <= window)


def attend(query, key, value, mask, window, scale):
    """query (B, heads, T, D), key and value (B, heads, S, D); (B, heads, T, D)."""
    causal = mask.is_causal(key.shape[2], window)
    mask = None if causal else mask.of(key.shape[2], window)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    return nn.functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)


def soft_capped(x, cap):
    return x if cap is None else cap * torch.tanh(x / cap)


def attend_and_tell(query, key, value, mask, window, scale, cap):
    """`attend` with scores that are soft-capped, and how much each query looks at each key: (B, heads, T, S)."""
    scores, mask = soft_capped(query @ key.transpose(2, 3) * scale, cap), mask.of(key.shape[2], window)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return shares @ value, shares


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
        self.rope, self.window = sizes["rope"], sizes["window"]
        self.num_key_value_groups = heads // groups
        width, bias = config.hidden_size, config.attention_bias
        self.q = nn.Linear(width, heads * self.head_dim, bias=bias)
        self.k = nn.Linear(width, groups * self.head_dim, bias=bias)
        self.v = nn.Linear(width, groups * self.head_dim, bias=bias)
        self.out = nn.Linear(heads * self.head_dim, width, bias=config.bias)
        self.over_heads = config.qk_norm_over_heads  # the norms are over all heads together
        sizes = [each * self.head_dim if self.over_heads else self.head_dim for each in (heads, groups)]
        self.q_norm, self.k_norm = (make_norm(config, size) if config.qk_norm else nn.Identity() for size in sizes)

    def by_head(self, x, norm):
        """x (B, T, heads x D), normed, as (B, heads, T, D)."""
        x = (norm(x) if self.over_heads else x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return x if self.over_heads else norm(x)

    def forward(self, x, rotary, mask, cache, tell):
        cos, sin = rotary[self.rope]
        query = rotate(self.by_head(self.q(x), self.q_norm), cos, sin)
        key = rotate(self.by_head(self.k(x), self.k_norm), cos, sin)
        value = self.v(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if cache is not None:
            # A static cache of transformers before 5.9 needs the positions.
            key, value = cache.update(key, value, self.number, {"cache_position": mask.places})
        key, value = (each.repeat_interleave(self.num_key_value_groups, dim=1) for each in (key, value))
        cap = self.config.attention_cap
        if tell or cap is not None or self.config._attn_implementation == "eager":
            mixed, shares = attend_and_tell(query, key, value, mask, self.window, self.head_dim**-0.5, cap)
        else:
            mixed, shares = attend(query, key, value, mask, self.window, self.head_dim**-0.5), None
        return self.out(mixed.transpose(1, 2).flatten(2)), shares


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


class SprigMixture(nn.Module):
    """Sends each token to the experts of its largest router logits, weighted by a softmax over these; with
    `open_weights`, over all."""

    def __init__(self, config, number):
        super().__init__()
        count, self.passed = (config.layers[number][key] for key in ("experts", "experts_per_token"))
        self.router, self.open = nn.Linear(config.hidden_size, count, bias=False), config.open_weights
        self.experts = nn.ModuleList(SprigMLP(config, number) for _ in range(count))

    def forward(self, x):
        shape, x = x.shape, x.flatten(0, 1)
        logits = self.router(x)
        highest, chosen = logits.topk(self.passed)
        weights = logits.softmax(dim=-1, dtype=torch.float32).gather(1, chosen)
        weights = weights if self.open else highest.softmax(dim=-1, dtype=torch.float32)
        weights, added = weights.to(x.dtype), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            tokens, places = torch.where(chosen == number)
            added[tokens] += weights[tokens, places, None] * expert(x[tokens])
        return added.view(shape)


class SprigLayer(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        present = (config.norms_before,) * 2 + (config.norms_after,) * 2
        norms = [make_norm(config, config.hidden_size) if each else nn.Identity() for each in present]
        self.attention_norm, self.mlp_norm, self.attention_post_norm, self.mlp_post_norm = norms
        self.attention = SprigAttention(config, number)
        self.mlp = (SprigMixture if "experts" in config.layers[number] else SprigMLP)(config, number)
        self.parallel = config.parallel_residual

    def forward(self, x, rotary, mask, cache, tell):
        attention, shares = self.attention(self.attention_norm(x), rotary, mask, cache, tell)
        attended = x + self.attention_post_norm(attention)
        return attended + self.mlp_post_norm(self.mlp(self.mlp_norm(x if self.parallel else attended))), shares


class SprigForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = SprigConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    _no_split_modules = ["SprigLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(SprigLayer(config, number) for number in range(len(config.layers)))
        self.norm = make_norm(config, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def tie_weights(self, missing_keys=None, **kwargs):
        # transformers 5.3 takes the tied head of a remote modelling file for one that the weights hold, and leaves it
        # empty: say that it is missing. Version 4 has no such argument.
        if missing_keys is not None:
            kwargs["missing_keys"] = missing_keys
            if self.config.tie_word_embeddings:
                missing_keys.add("lm_head.weight")
        super().tie_weights(**kwargs)

    def _rotary(self, x, position_ids):
        """For each `rope` cos and sin (B, 1, T, rotary), made in fp32 whatever the model's dtype."""
        tables, positions = {}, position_ids[:, None, :, None].float()
        for name, frequencies in self.config.rope_frequencies.items():
            angles = positions * torch.tensor(frequencies, dtype=torch.float32, device=x.device).repeat(2)
            tables[name] = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
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
        logits_to_keep=0,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        cache=None,
        **kwargs,
    ):
        """Token numbers (B, T) to logits (B, T, vocabulary), or only the last `logits_to_keep` of them. `cache` and
        `past_key_values` are the same. `kwargs` are for the loss."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        config = self.config
        x = inputs_embeds if input_ids is None else self.embed_tokens(input_ids) * config.embedding_scale
        # Activations are then computed twice, and a cache would grow twice.
        again = self.gradient_checkpointing and self.training
        cache = past_key_values if cache is None else cache
        if cache is None and (config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache()
        cache = None if again else cache
        seen = 0 if cache is None else cache.get_seq_length()
        if (places := kwargs.pop("cache_position", None)) is None:  # given by transformers before 5.9
            places = torch.arange(x.shape[1], device=x.device) + seen
        position_ids = places[None] if position_ids is None else position_ids
        shared = (
            self._rotary(x, position_ids),
            Mask(attention_mask, places, first=cache is None or (type(seen) is int and seen == 0)),
            cache,
            config.output_attentions if output_attentions is None else output_attentions,
        )
        keep = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states, shares = [], []
        for layer in self.layers:
            states.append(x)
            x, share = self._gradient_checkpointing_func(layer, x, *shared) if again else layer(x, *shared)
            shares.append(share)
        x = self.norm(x)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = soft_capped(self.lm_head(x[:, kept]), config.logit_cap)
        for_loss = {"logits": logits, "labels": labels, "vocab_size": config.vocab_size, **kwargs}
        output = CausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(**for_loss),
            logits=logits,
            hidden_states=(*states, x) if keep else None,
            attentions=tuple(shares) if shared[-1] else None,
            **{CACHE: cache},
        )
        return output.to_tuple() if return_dict is False else output
