"""What one process holds on its device in search, recovery and training, counted, and whether that fits.

Sources: what autograd saves of litgpt's blocks (a test counts it on fake CUDA tensors); ZeRO (arXiv 1910.02054) as
DeepSpeed lays it out, whose optimizer keeps an fp32 copy of its partition and buckets of `reduce_bucket_size` entries.
Not counted: the CUDA context, the allocator's fragments, and what lives for one operation.
"""

from dataclasses import dataclass, replace

import torch

from pipeline.config import DeepSpeedConfig, DistillConfig, Dtype, Fitness
from pipeline.errors import SprigError
from pipeline.ranks import world_size
from pipeline.search.evaluator import CHUNK_TOKENS
from pipeline.stages import micro_batch, recover
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import outer_parameters, parameters
from pipeline.subnetwork.value import LayerGenes, SubNetwork, whole

WEIGHT_BYTES = {Dtype.fp32: 4, Dtype.bf16: 2}
BUCKET = 500_000_000  # entries of DeepSpeed's reduce_bucket_size, unless zero_optimization sets another
LIVE = 1_000_000_000  # entries that ZeRO-3 gathers at one time, stage3_max_live_parameters
LOGITS = {True: 5, False: 3}  # fp32 copies of a chunk's logits, with a teacher and without
OTHERS = (8, 16, 32, 64)  # processes that a refusal proposes


@dataclass(frozen=True)
class Need:
    """Bytes of one process, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in self.parts.items() if size >= 2**20)
        return f"{_gib(self.total)}: {parts}" if parts else _gib(self.total)


def layer_activations(a: Architecture, width: int, gene: LayerGenes, precision: str) -> int:
    """Bytes of one token that a block keeps for its backward pass.

    `precision` as in pipeline.models.precision. The residual stream and the norms are in fp32 under autocast; matrix
    products are in bf16.
    """
    entry = 4 if precision == "fp32" else 2  # of a matrix product's inputs and outputs
    stream = 2 if precision == "bf16" else 4
    queries, keys = gene.n_head * gene.head_size, gene.n_query_groups * gene.head_size
    # LayerNorm keeps its input, which parallel norms share; litgpt's RMSNorm keeps its normalised input as well.
    norms = stream * width * (1 if a.parallel_residual else 2) + (16 if a.layer_norm else 8 + 2 * 4 * width)
    # What qkv and the MLP read. Autocast casts the MLP's input for each of the matrices that read it.
    projected = entry * width * (3 if a.gated_mlp and precision == "bf16-mixed" else 2)
    # q, k and v as attention reads them, its output, a copy for the projection, and the softmax' normalisers. Where
    # every head has keys of its own, v is a view of qkv.
    values = queries if gene.n_query_groups != gene.n_head else queries + 2 * keys
    attention = entry * (4 * queries + values) + 4 * gene.n_head
    if a.qk_norm:
        # Their normalised inputs; and these in fp32, which where they are so already is all of qkv.
        inputs = queries + keys if precision != "fp32" else (queries + 2 * keys) * (gene.n_query_groups != gene.n_head)
        attention += 4 * (inputs + queries + keys + gene.n_head + gene.n_query_groups)
    mlp = entry * gene.intermediate_size * (4 if a.gated_mlp else 2)
    return norms + projected + attention + mlp


def activations(a: Architecture, sub: SubNetwork, precision: str, checkpointing: bool) -> int:
    """Bytes of one token that a forward pass keeps for the backward pass; with activation checkpointing, the input of
    every block and the activations of the largest one."""
    stream = 2 if precision == "bf16" else 4
    layers = [layer_activations(a, sub.n_embd, gene, precision) for gene in sub.genes]
    final = (stream + 4) * sub.n_embd  # the final norm's input, and the gradient of its output
    if checkpointing:
        return stream * sub.n_embd * sub.n_layer + max(layers) + final
    return sum(layers) + final


def _states(size: int, deepspeed: DeepSpeedConfig, ranks: int, precision: str) -> dict[str, int]:
    """Weights, gradients, optimizer states and communication buffers of `size` parameters."""
    stage, entry = deepspeed.zero_stage, 2 if precision == "bf16" else 4
    shared = {each: -(-size // ranks) if stage >= each else size for each in (1, 2, 3)}
    bucket = int(deepspeed.zero_optimization.get("reduce_bucket_size", BUCKET))
    gathered = min(size, LIVE) if stage == 3 else 0
    copy = shared[1] if stage else 0  # fp32, of the optimizer's partition
    buffers = min(size, bucket) if ranks > 1 or stage else 0
    return {
        "weights": entry * (shared[3] + gathered),
        "gradients": entry * shared[2],
        "optimizer states": 8 * shared[1],
        "fp32 partition": 4 * copy,
        "buckets": entry * buffers,
    }


def training(
    context: Context, sub: SubNetwork, distill: DistillConfig | None = None, deepspeed: DeepSpeedConfig | None = None
) -> Need:
    """Of distillation; with other settings than the configuration's where they are given."""
    config, a, precision = context.config, context.architecture, context.precision
    distill, deepspeed = distill or micro_batch.settings(context), deepspeed or config.deepspeed
    ranks = deepspeed.world_size or world_size()
    size, tokens = parameters(a, sub), (distill.micro_batch or 1) * config.data.block_size
    online = distill.distils and not distill.cached
    kd = context.kd_architecture
    teacher = parameters(kd) * WEIGHT_BYTES[(config.kd_teacher or config.teacher).dtype] if online else 0
    rows = a.padded_vocab_size * sub.n_embd
    chunk = min(distill.chunk_tokens, tokens)
    return Need(
        {
            "teacher": teacher,
            "teacher's hidden states": 4 * tokens * kd.n_embd if online else 0,
            **_states(size, deepspeed, ranks, precision),
            # What autocast keeps of the weights until the backward pass ends.
            "bf16 copies of weights": 2 * (size - outer_parameters(a, sub.n_embd)) if precision == "bf16-mixed" else 0,
            "activations": tokens * activations(a, sub, precision, distill.activation_checkpointing),
            "head and its gradient": rows * (4 if precision == "fp32" else 6),
            "logits": LOGITS[online] * 4 * chunk * a.vocab_size,
        }
    )


def _forward(context: Context, sub: SubNetwork, batch: int) -> int:
    """Bytes of a forward pass without gradients, at most: one block's activations, and the stream before and after."""
    a, precision = context.architecture, context.precision
    largest = max(layer_activations(a, sub.n_embd, gene, precision) for gene in sub.genes)
    return batch * context.config.data.block_size * (largest + 8 * sub.n_embd)


def search(context: Context, sub: SubNetwork) -> Need:
    """Of scoring one candidate at a time."""
    config, a = context.config.search, context.architecture
    entry = WEIGHT_BYTES[context.config.teacher.dtype]
    size, kl = parameters(a, sub), config.fitness == Fitness.kl
    cast = 2 * size if context.precision == "bf16-mixed" and entry == 4 else 0
    forward = _forward(context, whole(a) if kl else sub, config.batch)
    hidden = 4 * a.n_embd * config.blocks * context.config.data.block_size if kl else 0
    return Need(
        {
            "teacher": entry * parameters(a),
            "candidate": entry * size,
            "bf16 copies of weights": cast,
            "teacher's hidden states": hidden,
            "forward pass": forward,
            "logits": (4 if kl else 2) * 4 * CHUNK_TOKENS * a.vocab_size,
        }
    )


def recovery(context: Context, sub: SubNetwork) -> Need:
    """Of refitting one student."""
    a = context.architecture
    return Need(
        {
            "teacher": WEIGHT_BYTES[context.config.teacher.dtype] * parameters(a),
            "student": 4 * parameters(a, sub),
            "streams and regressions": recover.memory(context, sub),
            "forward pass": _forward(context, whole(a), context.config.recover.batch),
        }
    )


def rows(context: Context, sub: SubNetwork) -> list[tuple[str, str]]:
    """For a plan: what each stage needs for a student like this, and what there is."""
    recovers = [("memory a process, recover", str(recovery(context, sub)))] if recover.roles(context) else []
    held = f" of {_gib(micro_batch.device_memory(context.device))} on {device_name()}"
    return [
        ("memory a process, search", str(search(context, sub))),
        *recovers,
        ("memory a process, distill", f"{training(context, sub)}{held if context.device.type == 'cuda' else ''}"),
    ]


def check(context: Context, sub: SubNetwork) -> None:
    """Whether the GPU holds what the stages need for a student of this size.

    Raises:
        SprigError: it does not; names the bytes and the overrides that fit.
    """
    held, source = micro_batch.device_memory(context.device), device_name()
    if (need := training(context, sub)).total > held:
        cures = _cures(context, sub, held)
        advice = f"set {' or '.join(cures)}" if cures else "choose a smaller bin or kd_teacher"
        raise SprigError(
            f"Distillation of a {parameters(context.architecture, sub):,}-parameter student needs {need} "
            f"on {source} of {_gib(held)}: {advice}."
        )
    if (need := search(context, sub)).total > held:
        raise SprigError(
            f"The search needs {need} on {source} of {_gib(held)}: lower search.batch, or set teacher.dtype=bf16."
        )
    if recover.roles(context) and (need := recovery(context, sub)).total > held:
        raise SprigError(f"Recovery needs {need} on {source} of {_gib(held)}: lower recover.tokens or recover.batch.")


def _cures(context: Context, sub: SubNetwork, held: int) -> list[str]:
    """The overrides that make training fit, with the fewest changes first: at most two of them."""
    settings, deepspeed = micro_batch.settings(context), context.config.deepspeed
    ranks = deepspeed.world_size or world_size()
    most = settings.micro_batch or 1
    sizes = [each for each in range(most, 0, -1) if most % each == 0]
    processes = [deepspeed, *(replace(deepspeed, world_size=n) for n in OTHERS if n > ranks and context.config.plan)]
    found = []
    for layout in processes:
        share = settings.global_batch // (layout.world_size or ranks)
        for checkpointing in sorted({settings.activation_checkpointing, True}):
            for size in (each for each in sizes if share and share % each == 0):
                tried = replace(settings, micro_batch=size, activation_checkpointing=checkpointing)
                if training(context, sub, tried, layout).total <= held:
                    found.append(_override(settings, tried, deepspeed, layout))
                    break
        if found:
            break
    return found[:2]


def _override(old: DistillConfig, new: DistillConfig, started: DeepSpeedConfig, layout: DeepSpeedConfig) -> str:
    changes = []
    if layout.world_size != started.world_size:
        changes.append(f"deepspeed.world_size={layout.world_size}")
    if new.activation_checkpointing != old.activation_checkpointing:
        changes.append("distill.activation_checkpointing=true")
    if new.micro_batch != old.micro_batch:
        changes.append(f"distill.micro_batch={new.micro_batch}")
    return " ".join(changes)


def device_name() -> str:
    """What holds the memory that is planned for."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "an assumed GPU"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
