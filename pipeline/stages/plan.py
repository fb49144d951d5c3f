"""Before anything runs: does the configuration fit the teacher, and what would the run cost."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import Layers, OrderingKind, Strategy
from pipeline.errors import SprigError
from pipeline.evaluation import tasks
from pipeline.ranks import local_world_size
from pipeline.search import forecast
from pipeline.stages import (
    cache,
    distill,
    epochs,
    evaluate,
    extract,
    memory,
    order,
    outlook,
    recover,
    rerank,
    search,
    study,
)
from pipeline.stages.budget import budget
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots, roots
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork
from pipeline.training.engine import check_compile, check_precision

SAMPLES = 64  # sub-networks that stand for the space in an estimate
CHECKPOINT_BYTES = 12  # an fp32 weight with both moments


def check(context: Context) -> None:
    """Rejects what cannot work before any weight is loaded.

    Raises:
        SprigError: says which two values do not fit, and the cure.
    """
    config, architecture = context.config, context.architecture
    if config.data.block_size > architecture.context:
        raise SprigError(
            f"data.block_size={config.data.block_size} exceeds the context of teacher {config.teacher.name}, "
            f"{architecture.context}: lower data.block_size."
        )
    if config.search.strategy == Strategy.given:
        least = flops_per_token(architecture, search.read_given(context, roots(context)), length=config.data.block_size)
    else:
        space = context.space(Ordering.identity(architecture))
        search.check_strategy(context, space)
        least = space.least_flops_per_token(config.data.block_size)
    search.check_limit(context, least)
    if config.space.layers == Layers.rank and config.ordering.kind == OrderingKind.none:
        raise SprigError(
            "space.layers=rank needs a ranking of the layers, but ordering.kind=none has none: use "
            "ordering=importance, or space.layers=prefix."
        )
    if config.distill.distils:
        _check_kd(context)
        cache.check(context)
    distill.check(context)
    recover.check(context)
    epochs.check(context)
    rerank.check(context)
    study.check(context)
    evaluate.prefill(context)
    tasks.check(config.evaluate.tasks, fetch=False)
    check_precision(context.precision, config.deepspeed)
    check_compile(config.distill, context.device)
    if context.device.type == "cuda":
        memory.check(context, _typical(context).middle)
    gpus = torch.cuda.device_count()
    if context.device.type == "cuda" and local_world_size() > gpus and not config.plan:
        raise SprigError(
            f"{local_world_size()} processes on this machine but {gpus} GPUs: start at most {gpus}, or set device=cpu."
        )


def _check_kd(context: Context) -> None:
    """The KD teacher, where it is another than the one that is cut."""
    config, cut, kd = context.config, context.architecture, context.kd_architecture
    if config.data.block_size > kd.context:
        raise SprigError(
            f"data.block_size={config.data.block_size} exceeds the context of kd_teacher {kd.name}, {kd.context}: "
            "lower data.block_size."
        )
    if kd.vocab_size != cut.vocab_size:
        raise SprigError(
            f"kd_teacher {kd.name} has a vocabulary of {kd.vocab_size:,} and teacher {cut.name} one of "
            f"{cut.vocab_size:,}: take a kd_teacher of the same tokenizer."
        )


def check_prepared(context: Context, made: Roots) -> None:
    """Once teachers and text are there: does every stage find the blocks that it asks for, and every model the tokens.

    Raises:
        SprigError: as epochs.check, Context.evenly and Tokenizer.check_same.
    """
    epochs.check(context)
    config, tokens = context.config, made.tokens
    if distill.loads_kd_teacher(context):
        context.tokenizer(made.teacher).check_same(context.tokenizer(made.kd_teacher))
    context.evenly(tokens, "calibration", config.search.blocks, "search.blocks")
    context.evenly(tokens, "validation", config.evaluate.blocks, "evaluate.blocks")
    if config.ordering.kind != OrderingKind.none:
        context.evenly(tokens, "calibration", config.ordering.blocks, "ordering.blocks")
    if recover.roles(context):
        recover.calibration(context, made)


@dataclass(frozen=True)
class Typical:
    """Sub-networks that stand for what the search may find: `middle` is of median size, `size` their median parameters,
    `forward` their median forward FLOPs per token."""

    students: list[SubNetwork]
    middle: SubNetwork
    size: int
    forward: int


def _typical(context: Context) -> Typical:
    config, teacher = context.config, context.architecture
    if config.search.strategy == Strategy.given:
        students = [search.read_given(context, roots(context))]
    else:
        space = context.space(Ordering.identity(teacher))
        rng = np.random.default_rng(config.seed)
        students = [space.sample(rng) for _ in range(SAMPLES)]
    sizes = [parameters(teacher, sub) for sub in students]
    forward = int(np.median([flops_per_token(teacher, sub, length=config.data.block_size) for sub in students]))
    middle = students[int(np.argsort(sizes)[len(sizes) // 2])]
    return Typical(students, middle, int(np.median(sizes)), forward)


def flops(context: Context, typical: Typical | None = None) -> dict[str, int]:
    """About how many FLOPs each step costs, by its role; a role that is not named costs next to none."""
    config, length = context.config, context.config.data.block_size
    typical = typical or _typical(context)
    forward = typical.forward
    once, head = search.teacher_flops(context, config.search)
    searched = once + (forward + head) * forecast.expected(config.search, length, forward + head).tokens
    searched = min(searched, config.search.limit.flops or searched)
    ordered = config.ordering.blocks * length * order.flops_of_a_token(context)
    trained = 3 * forward * budget(context) + cache.teacher_flops(context, budget(context))
    return {
        "ordering": ordered if config.ordering.kind != OrderingKind.none else 0,
        "search": searched,
        "random_search": searched,
        "rerank": rerank.expected(context) * rerank.flops(context, forward) if config.search.rerank.candidates else 0,
        **{f"recovered_{role}": recover.flops(context, typical.middle) for role in recover.roles(context)},
        **{f"distilled_{role}": trained for role in extract.roles(context)},
        "study": config.study.subnetworks * study.flops(context, forward) if config.study.subnetworks else 0,
    }


def table(context: Context) -> list[tuple[str, str]]:
    """What a run would do: shapes, parameters, FLOPs of each stage, memory, disk and tokens, in rows of name and value.

    Nothing is loaded and nothing is run, so it works for teachers whose weights are not here. Figures of the student
    are the median over sampled sub-networks of the bin, or the given one's.
    """
    config, teacher, length = context.config, context.architecture, context.config.data.block_size
    typical = _typical(context)
    size, forward = typical.size, typical.forward
    depth = sorted(sub.n_layer for sub in typical.students)
    width = sorted(sub.n_embd for sub in typical.students)
    teacher_forward = flops_per_token(teacher, length=length)
    kd = context.kd_architecture if config.distill.distils and not config.distill.cached else None
    kd_forward = flops_per_token(kd, length=length) if kd else 0

    costs = flops(context, typical)
    scoring = forward + search.teacher_flops(context, config.search)[1]
    searched = forecast.expected(config.search, length, scoring)
    ordered = config.ordering.blocks * length if config.ordering.kind != OrderingKind.none else 0
    trained, runs = budget(context), len(extract.roles(context))
    stable = distill.stable_tokens(context)
    training = f"{3 * forward * trained:.3g} student + {kd_forward * trained:.3g} teacher FLOPs"
    baseline = ""
    if config.search.random_baseline:
        baseline = f", and random ones on as many ({costs['random_search']:.3g} FLOPs)"

    total = sum(costs.values()) - (0 if config.search.random_baseline else costs["random_search"])
    teacher_bytes = parameters(teacher) * memory.WEIGHT_BYTES[config.teacher.dtype]
    batches, stage = distill.layout(context), config.deepspeed.zero_stage
    ranks = batches.ranks
    checkpoints = config.distill.checkpoint.keep + 1 + (runs if stable else 0)  # one more while it is written
    token_bytes = (config.data.max_tokens or trained) * (2 if teacher.vocab_size <= 1 << 16 else 4)
    return [
        ("teacher", f"{config.teacher.name}: {_shape(teacher)}"),
        (
            "teacher's parameters",
            f"{parameters(teacher):,} ({parameters(teacher, count='non_embedding'):,} non-embedding)",
        ),
        outlook.text(context),
        ("bin", str(context.bin)),
        ("space", f"{config.space.granularity} {config.space.sharing}, layers by {config.space.layers}"),
        ("student", f"{depth[0]} to {depth[-1]} layers, width {width[0]} to {width[-1]}, about {size:,} parameters"),
        outlook.leaves(context, typical.students),
        ("FLOPs a token, forward", f"teacher {teacher_forward:.3g}, student {forward:.3g}"),
        ("order", f"{ordered:,} tokens, {costs['ordering']:.3g} FLOPs"),
        (
            "search",
            f"{searched.evaluations:,} evaluations, {searched.tokens:,} tokens, {costs['search']:.3g} FLOPs{baseline}",
        ),
        *([("search's limit", unspent)] if (unspent := forecast.unspent(config.search, length, scoring)) else []),
        *_rerank(context, costs["rerank"]),
        *_recover(context, typical.middle),
        ("distill", f"{trained:,} tokens, {training}"),
        outlook.schedule(context),
        outlook.control(context, costs["distilled_student"]),
        *_cache(context),
        *_study(context, costs["study"]),
        *([("stable phase", f"the first {stable:,} tokens, which other budgets share")] if stable else []),
        (
            "batch",
            f"{batches.global_batch} blocks of {length:,} tokens: {ranks} processes x {batches.micro_batch} at a time "
            f"x {batches.accumulation} times",
        ),
        outlook.hours(context, total, ranks),
        ("processes", f"{ranks} on {context.device.type}, {context.precision}, ZeRO {stage}"),
        *memory.rows(context, typical.middle),
        (
            "disk",
            f"teacher {_bytes(teacher_bytes)}, tokens at least {_bytes(token_bytes)}, students "
            f"{_bytes(2 * runs * 4 * size)}, checkpoints {_bytes(checkpoints * CHECKPOINT_BYTES * size)}",
        ),
    ]


def _cache(context: Context) -> list[tuple[str, str]]:
    """The logits cache, where there is one, as a run that finds it empty would leave it."""
    if not context.config.distill.cached:
        return []
    tokens, size, flops, seconds = cache.cost(context)
    time = "time unknown" if seconds is None else f"{seconds / 3600:.2g} h at the speed of matrix products here"
    kind = context.config.distill.cache.kind
    return [("logits cache", f"{kind}, {tokens:,} tokens, {_bytes(size)}; {flops:.3g} FLOPs to fill, {time}")]


def _recover(context: Context, student: SubNetwork) -> list[tuple[str, str]]:
    if not (roles := recover.roles(context)):
        return []
    tokens = recover.blocks(context) * context.config.data.block_size
    cost, memory = recover.flops(context, student), recover.memory(context, student)
    return [
        ("recover", f"{len(roles)} x {tokens:,} tokens, {cost:.3g} FLOPs, {_bytes(memory)} in addition to both models")
    ]


def _rerank(context: Context, flops: int) -> list[tuple[str, str]]:
    if not (count := rerank.expected(context)):
        return []
    tokens = context.config.search.rerank.tokens
    return [("rerank", f"{count} x {tokens:,} tokens, {flops:.3g} FLOPs")]


def _study(context: Context, flops: int) -> list[tuple[str, str]]:
    if not (config := context.config.study).subnetworks:
        return []
    budgets = " + ".join(f"{tokens:,}" for tokens in (*config.short, study.budget(context)[0]))
    count = f"{config.random} random + {config.searched} searched"
    return [("study", f"{count} sub-networks x {budgets} tokens, {flops:.3g} FLOPs")]


def _shape(a: Architecture) -> str:
    heads = f"{a.n_head} heads in {a.n_query_groups} groups" if a.n_query_groups != a.n_head else f"{a.n_head} heads"
    return f"{a.n_layer} layers, width {a.n_embd}, {heads} of {a.head_size}, MLP {a.intermediate_size}"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
