"""What one process holds on its device in each stage, and whether that fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.config import DeepSpeedConfig, DistillConfig, Fitness, OrderingKind
from pipeline.errors import SprigError
from pipeline.models.head import chunk_tokens
from pipeline.models.perplexity import CPU_CHUNK_TOKENS as SCORED_TOKENS
from pipeline.models.reconstruction import CHUNK_TOKENS
from pipeline.ranks import world_size
from pipeline.search.evaluator import CPU_CHUNK_TOKENS
from pipeline.stages import budget, evaluate, order, reconstruct, recover
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import kv_bytes_per_token, parameters
from pipeline.subnetwork.value import SubNetwork, whole
from pipeline.training.memory import WEIGHT_BYTES, Need, device_memory, device_name, gib, layer_activations

OTHERS = (8, 16, 32, 64)  # processes that a refusal proposes


def of_training(context: Context, sub: SubNetwork) -> Need:
    return budget.memory(context, sub, budget.settings(context))


def _forward(context: Context, sub: SubNetwork, batch: int, length: int | None = None) -> int:
    """Bytes of a forward pass without gradients of `batch` texts of `length` tokens (None: data.block_size), at most:
    one block's activations, and the stream before and after."""
    a, precision, length = context.architecture, context.precision, length or context.config.data.block_size
    largest = max(layer_activations(a, sub.n_embd, gene, precision, length) for gene in sub.genes)
    return batch * length * (largest + 8 * sub.n_embd)


def _logits(context: Context, copies: int, cpu_chunk: int, batch: int, of: Architecture | None = None) -> int:
    """Bytes of `copies` in fp32 of the logits that are held at one time, of the run's vocabulary or that of `of`."""
    tokens = min(chunk_tokens(context.device, cpu_chunk), batch * context.config.data.block_size)
    return copies * 4 * tokens * (of or context.architecture).vocab_size


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
            "logits": _logits(context, 4 if kl else 2, CPU_CHUNK_TOKENS, config.batch),
        }
    )


def ordering(context: Context) -> Need:
    """Of measuring importance."""
    a, config = context.architecture, context.config
    return Need(
        {
            "teacher": WEIGHT_BYTES[config.teacher.dtype] * parameters(a),
            "sums and squared weights": order.memory(context),
            "forward pass": _forward(context, whole(a), config.ordering.batch),
        }
    )


def reconstruction(context: Context) -> Need:
    """Of measuring what cuts cost, one layer's backward pass at a time; streams wait in host memory."""
    a, config = context.architecture, context.config
    streams = 4 * (a.n_layer + 1) * config.ordering.blocks * config.data.block_size * a.n_embd
    return Need(
        {
            "teacher": WEIGHT_BYTES[config.teacher.dtype] * parameters(a),
            "Gram matrices and factors": reconstruct.memory(context),
            "a layer's activations": 2 * _forward(context, whole(a), config.ordering.batch),
            "logits": 3 * 4 * CHUNK_TOKENS * a.vocab_size,
            "streams": streams if context.device.type == "cpu" else 0,
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


def _both(context: Context, sub: SubNetwork) -> dict[str, int]:
    """Bytes of the weights where a student is scored and the teacher is kept."""
    a, size = context.architecture, parameters(context.architecture, sub)
    return {
        "teacher": WEIGHT_BYTES[context.config.teacher.dtype] * parameters(a),
        "student": 4 * size,
        "bf16 copies of weights": 2 * size if context.precision == "bf16-mixed" else 0,
    }


def evaluation(context: Context, sub: SubNetwork) -> Need:
    """Of scoring a student next to the teacher, or of timing it, or with space.vocabulary of scoring the uncut teacher,
    for which the cut one makes room: what needs most."""
    config, a, uncut = context.config, context.architecture, context.describe(context.config.teacher)
    models, entry, speed = _both(context, sub), WEIGHT_BYTES[config.teacher.dtype], config.evaluate.speed
    scored = models | {
        "forward pass": _forward(context, whole(a), config.evaluate.batch),
        "logits": _logits(context, 2, SCORED_TOKENS, config.evaluate.batch),
    }
    timed = models | {
        "forward pass": _forward(context, whole(a), 1),
        "KV cache": kv_bytes_per_token(a, value_bytes=entry) * (evaluate.prefill(context) + speed.decode),
    }
    alone = {
        "uncut teacher": entry * parameters(uncut),
        "forward pass": _forward(context, whole(uncut), 1),
        "logits": _logits(context, 2, SCORED_TOKENS, 1, uncut),
    }
    return max(map(Need, (scored, timed, alone)), key=lambda need: need.total)


def downstream(context: Context, sub: SubNetwork) -> Need:
    """Of scoring a student on tasks while the teacher is kept. At their most, texts that begin alike fill one row."""
    config, a = context.config, context.architecture
    tokens, entry = config.evaluate.batch * config.data.block_size, 4 if context.precision == "fp32" else 2
    return Need(
        _both(context, sub)
        | {
            "forward pass": _forward(context, whole(a), 1, tokens),
            "masks": tokens**2 * (1 + entry),  # which token sees which, and the same as attention adds it
            "logits": _logits(context, 2, SCORED_TOKENS, config.evaluate.batch),
        }
    )


@dataclass(frozen=True)
class _Stage:
    name: str
    need: Need
    refused: str  # how a refusal begins
    cure: str | None = None  # None: found for this run


def _stages(context: Context, sub: SubNetwork) -> Iterator[_Stage]:
    """The stages of a run that hold a model, for a student like this."""
    config, size = context.config, parameters(context.architecture, sub)
    if config.ordering.kind != OrderingKind.none:
        yield _Stage("order", ordering(context), "Measuring importance", "lower ordering.batch")
    if config.search.reads_errors:
        yield _Stage("reconstruct", reconstruction(context), "Reconstruction", "lower ordering.batch")
    yield _Stage("search", search(context, sub), "The search", "lower search.batch, or set teacher.dtype=bf16")
    if recover.roles(context):
        yield _Stage("recover", recovery(context, sub), "Recovery", "lower recover.tokens or recover.batch")
    yield _Stage("distill", of_training(context, sub), f"Distillation of a {size:,}-parameter student")
    cure = "lower evaluate.batch, or set teacher.dtype=bf16"
    yield _Stage("evaluate", evaluation(context, sub), "Evaluation", cure)
    if config.evaluate.tasks:
        yield _Stage("tasks", downstream(context, sub), "Scoring evaluate.tasks", cure)


def rows(context: Context, sub: SubNetwork) -> list[tuple[str, str]]:
    """For a plan: what each stage needs for a student like this, and what there is."""
    cuda = context.device.type == "cuda"
    held = f" of the {gib(device_memory(context.device))} of {device_name()}" if cuda else ""
    return [
        (f"memory per process, {stage.name}", stage.need.described(held if stage.name == "distill" else ""))
        for stage in _stages(context, sub)
    ]


def check(context: Context, sub: SubNetwork) -> None:
    """Whether the GPU holds what the stages need for a student of this size.

    Raises:
        SprigError: it does not; names the bytes and the overrides that fit.
    """
    held = device_memory(context.device)
    for stage in _stages(context, sub):
        if stage.need.total > held:
            cures = [] if stage.cure else _cures(context, sub, held)
            advice = f"set {' or '.join(cures)}" if cures else stage.cure or "choose a smaller bin or kd_teacher"
            raise SprigError(f"{stage.refused} needs {stage.need} on {device_name()} of {gib(held)}: {advice}.")


def _cures(context: Context, sub: SubNetwork, held: int) -> list[str]:
    """The overrides that make training fit, with the fewest changes first: at most two of them."""
    settings, deepspeed = budget.settings(context), context.config.deepspeed
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
                if budget.memory(context, sub, tried, layout).total <= held:
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
