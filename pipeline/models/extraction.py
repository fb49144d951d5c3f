"""Cuts a student out of a teacher by indexing its weights; nothing is learned.

`extract` turns a sub-network into index sets (`select`), and `cut` gathers the weights at these indices. `_axes` says
which dimension each axis of a weight belongs to.
"""

import math
from functools import partial

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor

from pipeline.errors import SprigError
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.student import LayerwiseGPT, assemble
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.selection import LayerSelection, Ordering, Selection, select
from pipeline.subnetwork.value import SubNetwork, check


def extract(teacher: GPT, sub: SubNetwork, ordering: Ordering, own: bool = True) -> GPT:
    """The student described by a sub-network, on the teacher's device and in its dtype.

    Args:
        own: whether the student owns its memory. With false, which suffices for scoring, tensors that are not cut share
            the teacher's memory.

    Raises:
        SprigError: the teacher does not contain the sub-network, or it was found under another ordering.
    """
    architecture = architecture_of(teacher.config, is_tied(teacher))
    check(sub, architecture)
    return cut(teacher, sub, select(sub, architecture, ordering), own)


@torch.no_grad()
def cut(teacher: GPT, sub: SubNetwork, selection: Selection, own: bool = True) -> GPT:
    """The student with the sub-network's sizes and the selected entries, in the selection's order; `own` as in
    `extract`.

    With attention_scale=teacher, the queries are multiplied by sqrt(new head size / old head size). The student divides
    scores by sqrt(new head size), so they end up divided by sqrt(old head size), as in the teacher.

    Raises:
        SprigError: the teacher is itself a layer-wise student, whose layers have no common sizes to cut from.
    """
    if isinstance(teacher, LayerwiseGPT):
        raise SprigError(f"{teacher.config.name} is a layer-wise student: only uniform models can be teachers.")
    tied = is_tied(teacher)
    architecture = architecture_of(teacher.config, tied)
    device = teacher.transformer.wte.weight.device

    take, width = partial(_take, own=own), _index(selection.embedding, architecture.n_embd, device)
    weights = {
        "transformer.wte.weight": take(teacher.transformer.wte.weight, (None, width)),
        "transformer.ln_f.weight": take(teacher.transformer.ln_f.weight, (width,)),
    }
    if architecture.layer_norm:
        weights["transformer.ln_f.bias"] = take(teacher.transformer.ln_f.bias, (width,))
    if teacher.config.scale_embeddings and sub.n_embd < architecture.n_embd:
        _keep_scale(weights, math.sqrt(architecture.n_embd / sub.n_embd), tied)
    weights["lm_head.weight"] = (
        weights["transformer.wte.weight"] if tied else take(teacher.lm_head.weight, (None, width))
    )
    if architecture.lm_head_bias:
        weights["lm_head.bias"] = teacher.lm_head.bias.clone()
    for number, (layer, gene, kept) in enumerate(zip(sub.layers, sub.genes, selection.layers, strict=True)):
        axes = _axes(architecture, kept, width, device)
        block = {}
        for name, tensor in teacher.transformer.h[layer].named_parameters():
            module, _, kind = name.rpartition(".")
            if (place := _place(module, kept.experts)) is not None:
                block[f"{place}.{kind}"] = take(tensor, axes[module])
        if sub.attention_scale == "teacher" and gene.head_size != architecture.head_size:
            for queries in _queries(block, gene.n_head * gene.head_size):
                queries *= math.sqrt(gene.head_size / architecture.head_size)
        weights |= {f"transformer.h.{number}.{name}": tensor for name, tensor in block.items()}

    return assemble(teacher.config, sub, tied, weights).train(teacher.training)


def _index(entries: np.ndarray, size: int, device: torch.device) -> Tensor | None:
    """The entries as an index tensor on the device; None if they are all entries in order, which need no gathering."""
    flat = entries.ravel()
    if np.array_equal(flat, np.arange(size)):
        return None
    index = torch.from_numpy(flat)
    # A copy from pageable memory would wait until the GPU has finished its queued work.
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)


def _take(tensor: Tensor, axes: tuple[Tensor | None, ...], own: bool) -> Tensor:
    """The chosen entries along each axis; a bias has only the first axis. Returns a copy, unless all entries are chosen
    and `own` is false."""
    taken = tensor
    for axis, entries in enumerate(axes[: tensor.dim()]):
        if entries is not None:
            taken = taken.index_select(axis, entries)
    if taken is not tensor:
        return taken
    return tensor.clone() if own else tensor.detach()


def _axes(
    architecture: Architecture, kept: LayerSelection, width: Tensor | None, device: torch.device
) -> dict[str, tuple[Tensor | None, ...]]:
    """For each module of a block, the entries to keep along (outputs, inputs).

    In litgpt's qkv, the rows are those of all queries, then all keys, then all values, each ordered by head and entry.
    The query heads of a group are adjacent.
    """
    size, queries, groups = architecture.head_size, architecture.n_head, architecture.n_query_groups
    heads = kept.groups[:, None] * architecture.heads_per_group + kept.heads
    rows_q = heads[:, :, None] * size + kept.rotary
    rows_k = (queries + kept.groups[:, None]) * size + kept.rotary
    rows_v = (queries + groups + kept.groups[:, None]) * size + kept.values
    columns = heads[:, :, None] * size + kept.values[:, None, :]

    qkv = _index(
        np.concatenate([rows_q.ravel(), rows_k.ravel(), rows_v.ravel()]), (queries + 2 * groups) * size, device
    )
    # A norm of q and k has a weight for every entry of a head, or for every row.
    normed = [(kept.rotary, size)] * 2
    if architecture.qk_norm_over_heads:
        normed = [(rows_q, queries * size), (rows_k - queries * size, groups * size)]
    norm_q, norm_k = (_index(entries, total, device) for entries, total in normed)
    if kept.experts is None:
        mlps = {"mlp": kept.neurons}
    else:
        mlps = {f"mlp.experts.{expert}": each for expert, each in zip(kept.experts, kept.neurons, strict=True)}
    axes = {
        "norm_1": (width,),
        "norm_2": (width,),
        "post_attention_norm": (width,),
        "post_mlp_norm": (width,),
        "attn.qkv": (qkv, width),
        "attn.norm_q": (norm_q,),
        "attn.norm_k": (norm_k,),
        "attn.proj": (width, _index(columns, queries * size, device)),
    }
    if kept.experts is not None:
        axes["mlp.gate"] = (_index(kept.experts, architecture.n_expert, device), width)
    for mlp, each in mlps.items():
        neurons = _index(each, architecture.intermediate_size, device)
        axes |= {f"{mlp}.{name}": (neurons, width) for name in ("fc", "fc_1", "fc_2")}
        axes[f"{mlp}.proj"] = (width, neurons)
    return axes


def _place(module: str, experts: np.ndarray | None) -> str | None:
    """What a module of the teacher's block is in the student's: there, the kept experts are numbered in their order.
    None for one of an expert that is not kept."""
    if experts is None or not module.startswith("mlp.experts."):
        return module
    _, _, number, name = module.split(".")
    places = np.flatnonzero(experts == int(number))
    return f"mlp.experts.{places[0]}.{name}" if len(places) else None


def _keep_scale(weights: dict[str, Tensor], factor: float, tied: bool) -> None:
    """The embedding is multiplied by the root of the width, which is smaller in the student: its table takes the
    `factor` between them. A tied head reads the same table, so the norm in front of it takes the inverse."""
    weights["transformer.wte.weight"] *= factor
    if tied:
        weights["transformer.ln_f.weight"] /= factor


def _queries(block: dict[str, Tensor], rows: int) -> list[Tensor]:
    """Views of the weights that scale the queries: q's norm if there is one, since it undoes any factor before it."""
    if "attn.norm_q.weight" in block:
        return [block["attn.norm_q.weight"]]
    return [block[name][:rows] for name in ("attn.qkv.weight", "attn.qkv.bias") if name in block]
