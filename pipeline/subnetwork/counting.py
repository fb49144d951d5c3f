"""Exact parameter counts and FLOPs in closed form. Every formula takes whole numbers and NumPy arrays alike."""

from typing import Any

from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.value import SubNetwork, whole

Count = Any  # an integer, or an array of integers; arrays broadcast, and a result is an array where an argument is one


def _layer_matrices(
    architecture: Architecture,
    n_embd: Count,
    n_query_groups: Count,
    heads_per_group: Count,
    head_size: Count,
    intermediate_size: Count,
    mlps: Count = 1,
    n_expert: Count = 0,
) -> Count:
    """Entries of a layer's weight matrices: q, k, v, the attention's projection, the two or three of each of `mlps`
    MLPs, and the router to `n_expert` experts."""
    queries = n_query_groups * heads_per_group * head_size
    keys = n_query_groups * head_size
    neurons = (3 if architecture.gated_mlp else 2) * mlps * intermediate_size
    return n_embd * (2 * queries + 2 * keys + neurons + n_expert)


def layer_parameters(
    architecture: Architecture,
    n_embd: Count,
    n_query_groups: Count,
    heads_per_group: Count,
    head_size: Count,
    intermediate_size: Count,
    n_expert: Count = 0,
    n_expert_per_token: Count = 0,
    *,
    count: str = "total",
) -> Count:
    """Parameters of one layer, with the experts of one token alone if `count` is "active": affine in each single
    argument. The experts are those of a mixture, and are left out otherwise."""
    total = architecture.norms * (2 if architecture.layer_norm else 1) * n_embd
    experts = (n_expert_per_token if count == "active" else n_expert, n_expert) if architecture.n_expert else ()
    sizes = n_embd, n_query_groups, heads_per_group, head_size, intermediate_size
    total = total + _layer_matrices(architecture, *sizes, *experts)
    if architecture.attention_bias:
        total = total + n_query_groups * (heads_per_group + 2) * head_size
    if architecture.bias:
        total = total + 2 * n_embd + (2 if architecture.gated_mlp else 1) * intermediate_size
    if architecture.qk_norm:
        normed = n_query_groups * (heads_per_group + 1) if architecture.qk_norm_over_heads else 2
        total = total + normed * head_size
    return total


def outer_parameters(architecture: Architecture, n_embd: Count, count: str = "total") -> Count:
    """Parameters outside the layers: the final norm and, unless `count` is "non_embedding", embedding and head, which
    as "exported" have no rows beyond the vocabulary."""
    final_norm = (2 if architecture.layer_norm else 1) * n_embd
    if count == "non_embedding":
        return final_norm
    tables, rows = 1 if architecture.tied else 2, architecture.padded_vocab_size
    if count == "exported":
        rows = min(rows, architecture.vocab_size)
    head_bias = rows if architecture.lm_head_bias else 0
    return final_norm + tables * rows * n_embd + head_bias


def parameters(architecture: Architecture, sub: SubNetwork | None = None, count: str = "total") -> int:
    """Parameters of a sub-network, or of the whole teacher: what counting the built model's tensors gives.

    "total" counts tied weights once; "non_embedding" leaves out the token embedding and the head; "exported" counts
    what transformers does of a sub-network whose layers need no padding (see pipeline.subnetwork.exported); "active"
    leaves out the experts that a token does not pass.
    """
    sub = sub or whole(architecture)
    layers = sum(layer_parameters(architecture, sub.n_embd, *gene.sizes, count=count) for gene in sub.genes)
    return outer_parameters(architecture, sub.n_embd, count) + layers


def layer_flops(
    architecture: Architecture,
    n_embd: Count,
    n_query_groups: Count,
    heads_per_group: Count,
    head_size: Count,
    intermediate_size: Count,
    n_expert: Count = 0,
    n_expert_per_token: Count = 0,
    *,
    length: int,
) -> Count:
    """One layer's share of `flops_per_token`: affine in each single argument, as `layer_parameters`."""
    sizes = n_embd, n_query_groups, heads_per_group, head_size, intermediate_size
    matrices = _layer_matrices(architecture, *sizes, *((n_expert_per_token, n_expert) if architecture.n_expert else ()))
    return 2 * matrices + 2 * length * n_query_groups * heads_per_group * head_size


def layers_flops(architecture: Architecture, sub: SubNetwork | None = None, *, length: int) -> int:
    """The layers' share of `flops_per_token`: a forward pass that ends before the head."""
    sub = sub or whole(architecture)
    return sum(layer_flops(architecture, sub.n_embd, *gene.sizes, length=length) for gene in sub.genes)


def outer_flops(architecture: Architecture, n_embd: Count) -> Count:
    """The head's share of `flops_per_token`."""
    return 2 * architecture.padded_vocab_size * n_embd


def flops_per_token(architecture: Architecture, sub: SubNetwork | None = None, *, length: int) -> int:
    """FLOPs of the forward pass for one token of a sequence of `length` tokens, averaged over the sequence.

    Two for each entry of a weight matrix, the head's included, the embedding look-up and vector operations not (Kaplan
    et al. 2020, table 1). Of a mixture, the experts that a token passes count. Causal attention, scores and weighted
    values together, is half of full attention's 4 * length * n_head * head_size, and sliding windows save nothing: they
    mask scores that are computed.
    """
    sub = sub or whole(architecture)
    return outer_flops(architecture, sub.n_embd) + layers_flops(architecture, sub, length=length)


def training_flops(forward: int) -> int:
    """FLOPs of a forward pass of `forward` FLOPs and of the backward pass, which costs as much as two of them."""
    return 3 * forward


def layer_kv_bytes(n_query_groups: Count, head_size: Count, value_bytes: int) -> Count:
    """Bytes that one layer keeps of a token in the KV cache: a key and a value for each query group."""
    return 2 * n_query_groups * head_size * value_bytes


def kv_bytes_per_token(architecture: Architecture, sub: SubNetwork | None = None, *, value_bytes: int = 2) -> int:
    """Bytes that the KV cache of all layers holds for one token, entries of `value_bytes` bytes (2: bf16, fp16)."""
    genes = (sub or whole(architecture)).genes
    return sum(layer_kv_bytes(gene.n_query_groups, gene.head_size, value_bytes) for gene in genes)
