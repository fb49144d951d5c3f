"""Sprig's own description of a model's family and sizes, free of torch."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Architecture:
    """A uniform decoder-only transformer.

    `vocab_size` counts the tokenizer's entries, `padded_vocab_size` the embedding's rows, `context` positions.
    `attention_bias` is the bias of q, k and v; `bias` that of every other linear layer but the head.
    Head size, rotary entries and widths are in entries. `rope_adjusted` marks frequencies that are not one plain power
    law of `rope_base` (Llama 3.1's scaling, and local bases). `norms_before` and `norms_after` say where
    attention and MLP have norms over the width. With `qk_norm`, q and k of each head are normed by themselves, or those
    of all heads together with `qk_norm_over_heads`. In a mixture of experts, `intermediate_size` is one expert's.
    """

    name: str
    family: str
    n_layer: int
    n_embd: int
    n_head: int
    n_query_groups: int
    head_size: int
    intermediate_size: int
    vocab_size: int
    padded_vocab_size: int
    context: int
    tied: bool
    bias: bool
    attention_bias: bool
    lm_head_bias: bool
    layer_norm: bool  # LayerNorm with bias; else RMSNorm
    gated_mlp: bool
    qk_norm: bool
    rotary_percentage: float
    rope_base: int
    rope_adjusted: bool = False
    parallel_residual: bool = False  # attention and MLP read the same stream
    norms_before: bool = True
    norms_after: bool = False
    qk_norm_over_heads: bool = False
    capped_scores: bool = False  # soft caps of attention scores, and of the logits
    capped_logits: bool = False
    n_expert: int = 0  # of each layer's mixture; 0: one MLP
    n_expert_per_token: int = 0

    @property
    def heads_per_group(self) -> int:
        return self.n_head // self.n_query_groups

    @property
    def norms(self) -> int:
        """Norms over the width in a layer."""
        return 2 * (self.norms_before + self.norms_after)

    @property
    def rope_entries(self) -> int:
        """Rotary entries of a head: entries i and i + rope_entries/2 form a pair."""
        return int(self.rotary_percentage * self.head_size)

    def to_dict(self) -> dict:
        return asdict(self)
