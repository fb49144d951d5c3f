"""A transformer written out entry by entry in float64: what a cut teacher must compute."""

import math
from dataclasses import replace

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor

from pipeline.subnetwork.selection import LayerSelection, Selection


def _frequency(config, pair: int, entries: int, local: bool) -> float:
    """Radians a position; Llama 3.1's rescaling in its original case-by-case form."""
    if local and config.rope_local_base_freq is None:
        return 0.0  # a layer without rotary positions
    if local:
        return config.rope_local_base_freq ** (-2 * pair / entries)
    frequency = config.rope_base ** (-2 * pair / entries)
    adjust = config.rope_adjustments
    if adjust is None:
        return frequency
    if "original_max_seq_len" not in adjust:
        return frequency / adjust["factor"]
    length, wavelength = adjust["original_max_seq_len"], 2 * math.pi / frequency
    if wavelength < length / adjust["high_freq_factor"]:
        return frequency
    if wavelength > length / adjust["low_freq_factor"]:
        return frequency / adjust["factor"]
    low, high = adjust["low_freq_factor"], adjust["high_freq_factor"]
    smooth = (length / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / adjust["factor"] + smooth * frequency


def _rotate(x: Tensor, frequencies: list[float]) -> Tensor:
    x, pairs = x.clone(), len(frequencies)
    for i, frequency in enumerate(frequencies):
        angle = torch.arange(x.size(1), dtype=torch.float64) * frequency
        one, two = x[..., i].clone(), x[..., i + pairs].clone()
        x[..., i] = one * angle.cos() - two * angle.sin()
        x[..., i + pairs] = two * angle.cos() + one * angle.sin()
    return x


def _norm(config, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight + (0 if bias is None else bias)


def _capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * (x.div(cap).exp() - x.div(-cap).exp()) / (x.div(cap).exp() + x.div(-cap).exp())


def _attention(
    config, layer: int, block, x: Tensor, width, kept: LayerSelection, plain: bool, own_scale: bool
) -> Tensor:
    size, queries, groups = config.head_size, config.n_head, config.n_query_groups
    bias = block.attn.qkv.bias if block.attn.qkv.bias is not None else torch.zeros_like(block.attn.qkv.weight[:, 0])
    joined = torch.cat([block.attn.qkv.weight[:, width], bias[:, None]], dim=1).view(-1, size, len(width) + 1)
    project = block.attn.proj.weight.view(-1, queries, size)
    rotary, total = torch.tensor(kept.rotary), config.rope_n_elem
    pairs = int(config.rotary_percentage * len(rotary)) // 2
    local = bool(config.rope_indices and config.rope_indices[layer])
    if plain:
        frequencies = [_frequency(config, i, 2 * pairs, local) for i in range(pairs)]
    else:
        frequencies = [_frequency(config, int(entry), total, local) for entry in rotary[:pairs]]
    ones = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    causal = torch.full((x.size(1), x.size(1)), -math.inf, dtype=torch.float64).triu(1)
    if config.sliding_window_size and config.sliding_window_indices[layer]:
        causal += torch.full_like(causal, -math.inf).tril(-config.sliding_window_size)
    result = torch.zeros_like(x) + (0 if block.attn.proj.bias is None else block.attn.proj.bias[width])
    kept_heads = [heads + group * (queries // groups) for group, heads in zip(kept.groups, kept.heads, strict=True)]

    def normed(norm, chosen, first):
        """By head, the kept entries of q or k, whose heads are the rows from `first` on."""
        each = {head: ones @ joined[first + head][rotary].T for head in chosen}
        if not config.norm_qk:
            return each
        if config.norm_qk_type == "default":
            return {head: _norm(config, x, norm.weight[rotary], None) for head, x in each.items()}
        together = torch.cat(list(each.values()), dim=-1)
        weight = torch.cat([norm.weight.view(-1, size)[head][rotary] for head in chosen])
        return dict(zip(each, _norm(config, together, weight, None).split(len(rotary), dim=-1), strict=True))

    all_q = normed(block.attn.norm_q, np.concatenate(kept_heads), 0)
    all_k = normed(block.attn.norm_k, kept.groups, queries)
    for group, heads, values in zip(kept.groups, kept_heads, torch.tensor(kept.values), strict=True):
        k = _rotate(all_k[group], frequencies)
        v = ones @ joined[queries + groups + group][values].T
        for head in heads:
            q = _rotate(all_q[head], frequencies)
            scores = _capped(
                q @ k.mT / math.sqrt(len(rotary) if own_scale else size), config.attention_logit_softcapping
            )
            result = result + (scores + causal).softmax(-1) @ v @ project[width][:, head][:, values].T
    return result


def _mlp(config, mlp, x: Tensor, width, neurons) -> Tensor:
    def linear(layer):
        return x @ layer.weight[neurons][:, width].T + (0 if layer.bias is None else layer.bias[neurons])

    gated = config.mlp_class_name != "GptNeoxMLP"
    if config.mlp_class_name == "LLaMAMLP":
        hidden = torch.nn.functional.silu(linear(mlp.fc_1)) * linear(mlp.fc_2)
    elif gated:
        gate = linear(mlp.fc_1)
        hidden = gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2 * linear(mlp.fc_2)
    if not gated:
        before = linear(mlp.fc)
        hidden = before * (1 + torch.erf(before / math.sqrt(2))) / 2
    return hidden @ mlp.proj.weight[width][:, neurons].T + (0 if mlp.proj.bias is None else mlp.proj.bias[width])


def _mixture(config, mixture, x: Tensor, width, kept: LayerSelection, passed: int) -> Tensor:
    """Every kept expert on every token, weighted by a softmax over them all, and by 0 beyond the `passed` largest; what
    is left sums to 1 again, unless weights are open."""
    scores = torch.full((*x.shape[:2], config.n_expert), -math.inf, dtype=x.dtype)
    scores[..., kept.experts] = x @ mixture.gate.weight[kept.experts][:, width].T
    shares = scores.softmax(-1)
    shares = torch.where(shares >= shares.sort(dim=-1, descending=True)[0][..., passed - 1 : passed], shares, 0)
    if config.routed_scaling_factor is not None:
        shares = shares / shares.sum(-1, keepdim=True)
    as_mlp = replace(config, mlp_class_name="LLaMAMLP")
    outputs = [
        shares[..., number, None] * _mlp(as_mlp, mixture.experts[number], x, width, neurons)
        for number, neurons in zip(kept.experts, torch.tensor(kept.neurons), strict=True)
    ]
    return sum(outputs)


@torch.no_grad()
def logits(
    teacher: GPT,
    tokens: Tensor,
    layers,
    selection: Selection,
    plain: bool = False,
    own_scale: bool = False,
    passed=None,
) -> Tensor:
    """Logits of the teacher (a float64 copy) reduced to the selected entries of the given layers; a token passes as
    many experts of each as `passed` says, all that the teacher's does if it is None."""
    config, width = teacher.config, torch.tensor(selection.embedding)
    passed = passed or [config.n_expert_per_token] * len(selection.layers)

    def norm(module, x):
        if isinstance(module, torch.nn.Identity):
            return x
        return _norm(config, x, module.weight[width], module.bias[width] if hasattr(module, "bias") else None)

    x = teacher.transformer.wte.weight[tokens][..., width] * (config.n_embd**0.5 if config.scale_embeddings else 1)
    for layer, kept, experts in zip(layers, selection.layers, passed, strict=True):
        block = teacher.transformer.h[layer]
        attention = _attention(config, layer, block, norm(block.norm_1, x), width, kept, plain, own_scale)
        attention = norm(block.post_attention_norm, attention)
        before_mlp = x if config.parallel_residual else x + attention
        inside = norm(block.norm_2, before_mlp)
        if config.n_expert:
            mlp = _mixture(config, block.mlp, inside, width, kept, experts)
        else:
            mlp = _mlp(config, block.mlp, inside, width, torch.tensor(kept.neurons))
        x = x + attention + norm(block.post_mlp_norm, mlp)
    head = teacher.lm_head
    result = norm(teacher.transformer.ln_f, x) @ head.weight[:, width].T
    return _capped(result + (0 if head.bias is None else head.bias), config.final_logit_softcapping)
