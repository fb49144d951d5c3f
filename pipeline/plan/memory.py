"""What one process holds on its device in reconstruction, search, recovery, training and evaluation, and whether that
fits."""

from dataclasses import replace

from pipeline.config import DeepSpeedConfig, DistillConfig, Fitness
from pipeline.errors import SprigError
from pipeline.models.head import chunk_tokens
from pipeline.models.perplexity import CPU_CHUNK_TOKENS as PERPLEXITY_TOKENS
from pipeline.models.reconstruction import CHUNK_TOKENS
from pipeline.ranks import world_size
from pipeline.search.evaluator import CPU_CHUNK_TOKENS
from pipeline.stages import budget, evaluate, reconstruct, recover
from pipeline.stages.context import Context
from pipeline.subnetwork.counting import kv_bytes_per_token, parameters
from pipeline.subnetwork.value import SubNetwork, whole
from pipeline.training.memory import WEIGHT_BYTES, Need, device_memory, device_name, gib, layer_activations

OTHERS = (8, 16, 32, 64)  # processes that a refusal proposes


def of_training(context: Context, sub: SubNetwork) -> Need:
    return budget.memory(context, sub, budget.settings(context))


def _forward(context: Context, sub: SubNetwork, batch: int) -> int:
    """Bytes of a forward pass without gradients, at most: one block's activations, and the stream before and after."""
    a, precision, length = context.architecture, context.precision, context.config.data.block_size
    largest = max(layer_activations(a, sub.n_embd, gene, precision, length) for gene in sub.genes)
    return batch * length * (largest + 8 * sub.n_embd)


def search(context: Context, sub: SubNetwork) -> Need:
    """Of scoring one candidate at a time."""
    config, a = context.config.search, context.architecture
    entry = WEIGHT_BYTES[context.config.teacher.dtype]
    size, kl = parameters(a, sub), config.fitness == Fitness.kl
    cast = 2 * size if context.precision == "bf16-mixed" and entry == 4 else 0
    forward = _forward(context, whole(a) if kl else sub, config.batch)
    hidden = 4 * a.n_embd * config.blocks * context.config.data.block_size if kl else 0
    chunk = chunk_tokens(context.device, CPU_CHUNK_TOKENS)
    return Need(
        {
            "teacher": entry * parameters(a),
            "candidate": entry * size,
            "bf16 copies of weights": cast,
            "teacher's hidden states": hidden,
            "forward pass": forward,
            "logits": (4 if kl else 2) * 4 * chunk * a.vocab_size,
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


def evaluation(context: Context, sub: SubNetwork) -> Need:
    """Of scoring a student next to the teacher, or of timing it, or with space.vocabulary of scoring the uncut teacher,
    for which the cut one makes room: what needs most."""
    config, a, uncut = context.config, context.architecture, context.describe(context.config.teacher)
    chunk, entry = chunk_tokens(context.device, PERPLEXITY_TOKENS), WEIGHT_BYTES[config.teacher.dtype]
    size, speed = parameters(a, sub), config.evaluate.speed
    models = {
        "teacher": entry * parameters(a),
        "student": 4 * size,
        "bf16 copies of weights": 2 * size if context.precision == "bf16-mixed" else 0,
    }
    scored = models | {
        "forward pass": _forward(context, whole(a), config.evaluate.batch),
        "logits": 2 * 4 * chunk * a.vocab_size,
    }
    timed = models | {
        "forward pass": _forward(context, whole(a), 1),
        "KV cache": kv_bytes_per_token(a, value_bytes=entry) * (evaluate.prefill(context) + speed.decode),
    }
    alone = {
        "uncut teacher": entry * parameters(uncut),
        "forward pass": _forward(context, whole(uncut), 1),
        "logits": 2 * 4 * min(chunk, config.data.block_size) * uncut.vocab_size,
    }
    return max(map(Need, (scored, timed, alone)), key=lambda need: need.total)


def rows(context: Context, sub: SubNetwork) -> list[tuple[str, str]]:
    """For a plan: what each stage needs for a student like this, and what there is."""
    reads = reconstruct.applies(context.config.search)
    reconstructs = [("memory a process, reconstruct", str(reconstruction(context)))] if reads else []
    recovers = [("memory a process, recover", str(recovery(context, sub)))] if recover.roles(context) else []
    held = f" of {gib(device_memory(context.device))} on {device_name()}"
    return [
        *reconstructs,
        ("memory a process, search", str(search(context, sub))),
        *recovers,
        ("memory a process, distill", f"{of_training(context, sub)}{held if context.device.type == 'cuda' else ''}"),
        ("memory a process, evaluate", str(evaluation(context, sub))),
    ]


def check(context: Context, sub: SubNetwork) -> None:
    """Whether the GPU holds what the stages need for a student of this size.

    Raises:
        SprigError: it does not; names the bytes and the overrides that fit.
    """
    held, source = device_memory(context.device), device_name()
    if (need := of_training(context, sub)).total > held:
        cures = _cures(context, sub, held)
        advice = f"set {' or '.join(cures)}" if cures else "choose a smaller bin or kd_teacher"
        raise SprigError(
            f"Distillation of a {parameters(context.architecture, sub):,}-parameter student needs {need} "
            f"on {source} of {gib(held)}: {advice}."
        )
    if (need := search(context, sub)).total > held:
        raise SprigError(
            f"The search needs {need} on {source} of {gib(held)}: lower search.batch, or set teacher.dtype=bf16."
        )
    if reconstruct.applies(context.config.search) and (need := reconstruction(context)).total > held:
        raise SprigError(f"Reconstruction needs {need} on {source} of {gib(held)}: lower ordering.batch.")
    if recover.roles(context) and (need := recovery(context, sub)).total > held:
        raise SprigError(f"Recovery needs {need} on {source} of {gib(held)}: lower recover.tokens or recover.batch.")
    if (need := evaluation(context, sub)).total > held:
        raise SprigError(
            f"Evaluation needs {need} on {source} of {gib(held)}: lower evaluate.batch, or set teacher.dtype=bf16."
        )


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
