"""The student as a model: stock litgpt where litgpt's config can express it, else one config per block."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from litgpt import GPT, Config
from litgpt.model import Block, build_rope_cache
from torch import Tensor, nn

from pipeline.errors import SprigError
from pipeline.models.bare import bare, with_weights
from pipeline.models.experts import OpenMixture, has_open_weights
from pipeline.models.families import architecture_of, is_power_law
from pipeline.models.head import CappedHead
from pipeline.models.positions import has_still_layers, is_windowed, masks, turns, with_still_tables
from pipeline.models.precision import without_casts
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.selection import rotary_run
from pipeline.subnetwork.value import LayerGenes, SubNetwork


def _layer_config(config: Config, architecture: Architecture, sub: SubNetwork, gene: LayerGenes) -> Config:
    """The stock config whose blocks all have this gene's sizes; `architecture` is that of `config`.

    A run of pairs (offset o, step s, m of n/2 pairs) of frequencies B**(-2i/n) is stock rope with base B**(s*m/(n/2))
    and positions divided by B**(o/(n/2)). `plain` keeps the base and so changes the frequencies, as the paper does.
    """
    rope = {}
    if sub.head_pairs != "plain" and gene.head_size != config.head_size:
        offset, step, pairs = rotary_run(architecture, gene.head_size, sub.head_pairs)
        base, total = float(config.rope_base), config.rope_n_elem // 2
        rope = {
            "rope_base": base ** (step * pairs / total),
            "rope_condense_ratio": config.rope_condense_ratio * base ** (offset / total),
        }
    return replace(
        config,
        **_kept_layers(config, sub),
        n_embd=sub.n_embd,
        n_head=gene.n_head,
        n_query_groups=gene.n_query_groups,
        head_size=gene.head_size,
        intermediate_size=gene.intermediate_size,
        n_expert=gene.n_expert or 0,
        n_expert_per_token=gene.n_expert_per_token or config.n_expert_per_token,
        **rope,
    )


def _kept_layers(config: Config, sub: SubNetwork) -> dict[str, Any]:
    """The fields of the kept layers: their number, and which of them have windows and other rotary frequencies."""
    kept: dict[str, Any] = {"n_layer": sub.n_layer}
    if config.n_layer == sub.n_layer:  # all are kept, or the config is the student's own
        return kept
    for name in ("sliding_window_indices", "rope_indices"):
        if (each := getattr(config, name)) is not None:
            kept[name] = [each[layer] for layer in sub.layers]
    return kept


def is_stock(config: Config, sub: SubNetwork) -> bool:
    """Whether a stock litgpt config names the sub-network, or says that a saved student is one.

    Frequencies chosen out of several power laws or adjusted ones (Llama 3.1's) are none themselves, so litgpt's config
    cannot name them."""
    rope_is_stock = sub.head_pairs == "plain" or sub.genes[0].head_size == config.head_size or is_power_law(config)
    return sub.uniform and rope_is_stock


def _is_litgpts(config: Config) -> bool:
    """Whether litgpt's own GPT computes a model of this config, and no worse than SprigGPT."""
    capped = config.attention_logit_softcapping is not None or config.final_logit_softcapping is not None
    own = capped or has_still_layers(config) or has_open_weights(config)
    return config.sliding_window_size is None and not own


class SprigGPT(GPT):
    """A litgpt GPT with what litgpt lacks. Masks for sliding windows are made once for all layers, and only for longer
    texts; the head itself caps the logits; layers may have no rotary positions, and mixtures open weights."""

    def __init__(self, config: Config):
        super().__init__(config)
        self._complete_blocks()
        if (cap := config.final_logit_softcapping) is not None:
            self.lm_head: nn.Linear = CappedHead(config.n_embd, config.padded_vocab_size, config.lm_head_bias, cap)

    def _complete_blocks(self) -> None:
        for block in self.transformer.h:
            block.attn.apply_sliding_window_attention = False  # litgpt's own masks are built token by token
            if has_open_weights(block.config):
                block.mlp = OpenMixture(block.config)

    def forward(self, idx: Tensor) -> Tensor:
        """Token numbers (B, T) to logits (B, T, padded_vocab_size)."""
        return self.lm_head(hidden_states(self, idx))

    def rope_cache(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        return with_still_tables(self.config, *super().rope_cache(device))


class LayerwiseGPT(SprigGPT):
    """A litgpt GPT whose blocks have sizes of their own.

    `config` is the teacher's with the student's n_layer and n_embd. The buffers `cos` and `sin`, (context, sum of the
    rotary entries of all distinct head sizes), hold each head size's table side by side, so that litgpt's own code
    moves and resets them. If some layers have a local base or no rotary positions, a last axis of two holds the others'
    tables and theirs.
    """

    def __init__(self, config: Config, sub: SubNetwork):
        # Before the parent's constructor, because that asks for the rope cache.
        self.sub, self._uncut = sub, architecture_of(config, tied=False)
        super().__init__(replace(config, n_layer=0, n_embd=sub.n_embd))  # blocks of one size, which are not wanted
        self.config = replace(config, **_kept_layers(config, sub), n_embd=sub.n_embd)
        blocks = [_layer_config(config, self._uncut, sub, gene) for gene in sub.genes]
        self.transformer.h = nn.ModuleList(Block(block, layer) for layer, block in enumerate(blocks))
        self._complete_blocks()
        ends: dict[int, int] = {}
        for block in sorted(blocks, key=lambda block: block.head_size):
            ends.setdefault(block.head_size, max(ends.values(), default=0) + block.rope_n_elem)
        self.rope_columns = [slice(ends[b.head_size] - b.rope_n_elem, ends[b.head_size]) for b in blocks]

    @with_weights
    def rope_cache(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        tables = [self._rope_table(size, device) for size in sorted({gene.head_size for gene in self.sub.genes})]
        cos, sin = (torch.cat(columns, dim=1) for columns in zip(*tables, strict=True))
        return with_still_tables(self.config, cos, sin)

    def _rope_table(self, head_size: int, device: torch.device | None) -> list[Tensor]:
        config, plain = self.config, self.sub.head_pairs == "plain"
        tables = build_rope_cache(
            self.max_seq_length,
            int(config.rotary_percentage * head_size) if plain else config.rope_n_elem,
            device,
            config.rope_base,
            config.rope_condense_ratio,
            config.rope_adjustments,
            config.rope_local_base_freq,
        )
        if plain:
            return list(tables)
        offset, step, pairs = rotary_run(self._uncut, head_size, self.sub.head_pairs)
        first_halves = torch.arange(offset, offset + step * pairs, step, device=device)
        entries = torch.cat([first_halves, first_halves + config.rope_n_elem // 2])
        return [table[:, entries] for table in tables]


def build(
    config: Config,
    sub: SubNetwork | None,
    tied: bool,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """The model of a sub-network of `config`, or of `config` itself. Building a student's own config again gives the
    student.

    Its weights are uninitialised memory: copy some in, or `initialize`. Rope tables stay in fp32 whatever the dtype.

    Raises:
        SprigError: the family is not supported.
    """
    return _finished(_outline(config, sub, tied).to(dtype).to_empty(device=device), tied)


def assemble(config: Config, sub: SubNetwork | None, tied: bool, weights: dict[str, Tensor]) -> GPT:
    """As `build`, with these weights, on their device and in their dtype. The model takes them over without a copy.

    Raises:
        SprigError: the family is not supported.
    """
    model = _outline(config, sub, tied)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if shapes != {name: tensor.shape for name, tensor in weights.items()}:
        model.load_state_dict(weights, assign=True)  # raises; otherwise, it takes longer than all the modules
    modules = dict(model.named_modules())
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        setattr(modules[module], kind, nn.Parameter(tensor))
    return _finished(model, tied)


def _outline(config: Config, sub: SubNetwork | None, tied: bool) -> GPT:
    """The model without memory for its weights."""
    architecture = architecture_of(config, tied)  # rejects what is not supported
    with bare():
        if sub is not None and not is_stock(config, sub):
            return LayerwiseGPT(config, sub)
        stock = config if sub is None else _layer_config(config, architecture, sub, sub.genes[0])
        return (GPT if _is_litgpts(stock) else SprigGPT)(stock)


def _finished(model: GPT, tied: bool) -> GPT:
    """The model with its ties, its weights, and rope tables in fp32."""
    if tied:
        tie(model)
    model.cos, model.sin = model.rope_cache(device=model.transformer.wte.weight.device)
    return model


def tie(model: GPT) -> None:
    """Makes head and embedding one parameter: the embedding's."""
    model.lm_head.weight = model.transformer.wte.weight


@contextmanager
def kv_cache(model: GPT, length: int) -> Iterator[None]:
    """Room for the keys and values of one text of up to `length` tokens, for `hidden_states` with a `start`."""
    weight = model.transformer.wte.weight
    try:
        for block in model.transformer.h:
            rotary = block.config.rope_n_elem
            block.attn.kv_cache = block.attn.build_kv_cache(1, length, rotary, weight.device, weight.dtype)
        yield
    finally:
        model.clear_kv_cache()


def embed(model: GPT, tokens: Tensor) -> Tensor:
    """Tokens (B, T) to the stream (B, T, n_embd) before the first block."""
    x = model.transformer.wte(tokens)
    return x * model.config.n_embd**0.5 if model.config.scale_embeddings else x


def hidden_states(
    model: GPT, tokens: Tensor, start: int | None = None, tree: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Tokens (B, T) to hidden states (B, T, n_embd) after the final norm, before the head.

    With `start` the tokens stand at places start, start + 1, ... of a text whose earlier ones the KV cache holds. With
    `tree` they are several texts: their places (B, T), and which token of a line sees which of a column (B, 1, T, T).

    Raises:
        SprigError: the blocks are longer than the model's context.
    """
    with without_casts(model):
        x = embed(model, tokens)
        for output in block_outputs(model, x, start=start, tree=tree):
            x = output
        return model.transformer.ln_f(x)


def block_outputs(
    model: GPT, x: Tensor, start: int | None = None, tree: tuple[Tensor, Tensor] | None = None
) -> Iterator[Tensor]:
    """Hidden states (B, T, n_embd) before the first block to those after each block.

    `start`, `tree` and what is raised as in `hidden_states`.
    """
    first = start or 0
    length = first + x.size(1) if tree is None else int(tree[0].max()) + 1
    if length > model.max_seq_length:
        raise SprigError(
            f"Blocks of {length} tokens exceed the context of {model.config.name}, {model.max_seq_length}: "
            "lower data.block_size."
        )
    places = torch.arange(first, length, device=x.device) if tree is None else tree[0]
    cached: tuple[Tensor | int | None, ...] = () if start is None else (places, length)
    # Without a mask attention is causal, which is right where the cache is empty.
    seen = torch.arange(length, device=x.device) <= places[:, None] if start else None
    seen = seen if tree is None else tree[1]
    full, near = masks(model, seen, places, length)
    cos, sin = (table[None, first:length] if tree is None else table[places] for table in (model.cos, model.sin))
    for number, block in enumerate(model.transformer.h):
        mask = near if is_windowed(model, number) else full
        x = block(x, turns(model, number, cos), turns(model, number, sin), mask, *cached)
        yield x


@torch.no_grad()
def initialize(model: GPT, seed: int) -> None:
    """Random weights, the same for a seed on every device.

    GPT-NeoX's initialisation, which the Pythia suite used (arXiv 2204.06745, section 2.1.3): normal with variance
    2/(5 n_embd), and 2/(n_layer sqrt(n_embd)) as the standard deviation of the layers that write to the residual
    stream; biases zero, norms one.
    """
    generator = torch.Generator().manual_seed(seed)
    width, depth = model.config.n_embd, model.config.n_layer
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name or "ln_f" in name:
            parameter.fill_(1)
        else:
            std = 2 / (depth * math.sqrt(width)) if name.endswith("proj.weight") else math.sqrt(2 / (5 * width))
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
