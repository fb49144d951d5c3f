"""What training holds on the device of one process, counted.

Sources: what autograd saves of litgpt's blocks (a test counts it on fake CUDA tensors); ZeRO (arXiv 1910.02054) as
DeepSpeed lays it out, whose optimizer keeps an fp32 copy of its partition and buckets of `reduce_bucket_size` entries.
Not counted: the CUDA context, the allocator's fragments, and what lives for one operation.
"""

import os
from dataclasses import dataclass
from functools import lru_cache

import torch

from pipeline.config import DeepSpeedConfig, DistillConfig, Dtype
from pipeline.ranks import local_world_size
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import outer_parameters
from pipeline.subnetwork.value import LayerGenes, SubNetwork

WEIGHT_BYTES = {Dtype.fp32: 4, Dtype.bf16: 2}
BUCKET = 500_000_000  # entries of DeepSpeed's reduce_bucket_size, unless zero_optimization sets another
LIVE = 1_000_000_000  # entries that ZeRO-3 gathers at one time, stage3_max_live_parameters
LOGITS = {True: 5, False: 3}  # fp32 copies of a chunk's logits, with a teacher and without; a soft cap needs another
PLANNED_BYTES = 80 * 2**30  # of a GPU that is not here


@dataclass(frozen=True)
class Need:
    """Bytes of one process, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        return self.described()

    def described(self, held: str = "") -> str:
        """The total, `held` with what there is, and the parts."""
        parts = ", ".join(f"{name} {gib(size)}" for name, size in self.parts.items() if size >= 2**20)
        return f"{gib(self.total)}{held}{f': {parts}' if parts else ''}"


def layer_activations(a: Architecture, width: int, gene: LayerGenes, precision: str, length: int) -> int:
    """Bytes of one token, in a text of `length` tokens, that a block keeps for its backward pass.

    `precision` as in pipeline.models.precision. The residual stream and the norms are in fp32 under autocast; matrix
    products are in bf16.
    """
    entry = 4 if precision == "fp32" else 2  # of a matrix product's inputs and outputs
    stream = 2 if precision == "bf16" else 4
    queries, keys = gene.n_head * gene.head_size, gene.n_query_groups * gene.head_size
    # LayerNorm keeps its input, which parallel norms share; litgpt's RMSNorm keeps its normalised input as well.
    norms = 0
    if a.norms_before:
        norms += stream * width * (1 if a.parallel_residual else 2) + (16 if a.layer_norm else 8 + 2 * 4 * width)
    if a.norms_after:  # their inputs, which nothing else keeps, in fp32
        norms += 8 + 2 * 8 * width
    # What qkv and the MLP read. Autocast casts the MLP's input for each of the matrices that read it.
    projected = entry * width * (3 if a.gated_mlp and precision == "bf16-mixed" else 2)
    # q, k and v as attention reads them, its output, a copy for the projection, and the softmax' normalisers. Where
    # every head has keys of its own, v is a view of qkv.
    values = queries if gene.n_query_groups != gene.n_head else queries + 2 * keys
    attention = entry * (4 * queries + values) + 4 * gene.n_head
    if a.capped_scores:  # which no kernel computes: instead of output and normalisers, all scores, capped and softmaxed
        attention += gene.n_head * (8 * length - 4) - entry * queries
    if a.qk_norm:
        # Their normalised inputs; and these in fp32, which where they are so already is all of qkv.
        inputs = queries + keys if precision != "fp32" else (queries + 2 * keys) * (gene.n_query_groups != gene.n_head)
        normalisers = 2 if a.qk_norm_over_heads else gene.n_head + gene.n_query_groups
        attention += 4 * (inputs + queries + keys + normalisers)
    mlp = entry * gene.intermediate_size * (4 if a.gated_mlp else 2)
    if (passed := gene.n_expert_per_token) is not None:
        # The router reads what an MLP does; each expert reads a copy of its tokens, which autocast casts twice, and its
        # output is kept for the routing weights, as are these, in fp32, and the numbers of tokens and experts.
        casts = 2 if precision == "bf16-mixed" else 1
        mlp = passed * (mlp + entry * width * (casts + 1) + 4 + 3 * 8) - entry * width * (casts - 1)
    return norms + projected + attention + mlp


def activations(a: Architecture, sub: SubNetwork, precision: str, checkpointing: bool, length: int) -> int:
    """Bytes of one token, in a text of `length` tokens, that a forward pass keeps for the backward pass; with
    activation checkpointing, the input of every block and the activations of the largest one."""
    stream = 2 if precision == "bf16" else 4
    layers = [layer_activations(a, sub.n_embd, gene, precision, length) for gene in sub.genes]
    final = (stream + 4) * sub.n_embd  # the final norm's input, and the gradient of its output
    if checkpointing:
        return stream * sub.n_embd * sub.n_layer + max(layers) + final
    return sum(layers) + final


def _states(size: int, deepspeed: DeepSpeedConfig, ranks: int, precision: str) -> dict[str, int]:
    """Weights, gradients, optimizer states and communication buffers of `size` parameters."""
    stage, entry = deepspeed.zero_stage, 2 if precision == "bf16" else 4
    shared = {each: -(-size // ranks) if stage >= each else size for each in (1, 2, 3)}
    bucket = deepspeed.zero_optimization.get("reduce_bucket_size", BUCKET)
    gathered = min(size, LIVE) if stage == 3 else 0
    copy = shared[1] if stage else 0  # fp32, of the optimizer's partition
    buffers = min(size, bucket) if ranks > 1 or stage else 0
    if stage in (1, 2) and deepspeed.zero_optimization.get("overlap_comm"):
        buffers *= 2  # one is filled while the other one is on its way
    return {
        "weights": entry * (shared[3] + gathered),
        "gradients": entry * shared[2],
        "optimizer states": 8 * shared[1],
        "fp32 partition": 4 * copy,
        "buckets": entry * buffers,
    }


@dataclass(frozen=True)
class Online:
    """A teacher that runs along: bytes of its weights, and the width of its hidden states."""

    weight_bytes: int
    width: int


def training(
    a: Architecture,
    sub: SubNetwork,
    size: int,
    teacher: Online | None,
    distill: DistillConfig,
    deepspeed: DeepSpeedConfig,
    ranks: int,
    block_size: int,
    precision: str,
) -> Need:
    """Of training a student of `size` parameters with the layers of `sub`; `distill` has a micro-batch."""
    assert distill.micro_batch is not None
    tokens = distill.micro_batch * block_size
    rows = a.padded_vocab_size * sub.n_embd
    chunk = min(distill.chunk_tokens, tokens)
    return Need(
        {
            "teacher": teacher.weight_bytes if teacher else 0,
            "teacher's hidden states": 4 * tokens * teacher.width if teacher else 0,
            **_states(size, deepspeed, ranks, precision),
            # What autocast keeps of the weights until the backward pass ends.
            "bf16 copies of weights": 2 * (size - outer_parameters(a, sub.n_embd)) if precision == "bf16-mixed" else 0,
            "activations": tokens * activations(a, sub, precision, distill.activation_checkpointing, block_size),
            "head and its gradient": rows * (4 if precision == "fp32" else 6),
            "logits": (LOGITS[teacher is not None] + a.capped_logits) * 4 * chunk * a.vocab_size,
        }
    )


@lru_cache
def device_memory(device: torch.device) -> int:
    """Bytes of memory for one process: its GPU's, or on a CPU its share of the machine's."""
    if device.type == "cuda":
        here = torch.cuda.is_available()
        return torch.cuda.get_device_properties(device).total_memory if here else PLANNED_BYTES
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // local_world_size()


def device_name() -> str:
    """The GPU whose memory `device_memory` gives, as errors call it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "an assumed GPU"


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
