"""What a run would do, in rows of name and value."""

from pipeline.config import OrderingKind
from pipeline.plan import costs as prices
from pipeline.plan import disk, memory, outlook
from pipeline.progress import counted
from pipeline.search import forecast
from pipeline.search.budget import teacher_flops
from pipeline.stages import cache, distill, recover, rerank, study
from pipeline.stages.budget import budget
from pipeline.stages.context import Context
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import flops_per_token, parameters, training_flops
from pipeline.subnetwork.value import SubNetwork


def table(context: Context) -> list[tuple[str, str]]:
    """What a run would do: shapes, parameters, FLOPs of each stage, memory, disk and tokens, in rows of name and value.

    Nothing is loaded and nothing is run, so it works for teachers whose weights are not here. Figures of the student
    are the median over sampled sub-networks of the bin, or the given one's.
    """
    config, teacher, length = context.config, context.architecture, context.config.data.block_size
    typical = prices.typical(context)
    size, forward = typical.size, typical.forward
    depth = sorted(sub.n_layer for sub in typical.students)
    width = sorted(sub.n_embd for sub in typical.students)
    teacher_forward = flops_per_token(teacher, length=length)
    kd = context.kd_architecture if config.distill.online else None
    kd_forward = flops_per_token(kd, length=length) if kd else 0

    costs = prices.flops(context, typical)
    ordered = config.ordering.blocks * length if config.ordering.kind != OrderingKind.none else 0
    trained = budget(context)
    stable = distill.stable_tokens(context)
    training = f"{training_flops(forward) * trained:.3g} student + {kd_forward * trained:.3g} teacher FLOPs"
    total = sum(costs.values()) - (0 if config.search.random_baseline else costs["random_search"])
    batches, stage = distill.layout(context), config.deepspeed.zero_stage
    ranks = batches.ranks
    return [
        ("teacher", f"{config.teacher.name}: {_shape(teacher)}"),
        (
            "teacher's parameters",
            f"{parameters(teacher):,} ({parameters(teacher, count='non_embedding'):,} non-embedding{_active(teacher)})",
        ),
        *_vocabulary(context),
        outlook.text(context),
        *_choice(context),
        ("student", f"{depth[0]} to {depth[-1]} layers, width {width[0]} to {width[-1]}, about {size:,} parameters"),
        outlook.leaves(context, typical.students),
        ("FLOPs per token, forward", f"teacher {teacher_forward:.3g}, student {forward:.3g}"),
        ("order", f"{ordered:,} tokens, {costs['ordering']:.3g} FLOPs"),
        *_search(context, costs, forward),
        *_recover(context, typical.middle),
        ("distill", f"{trained:,} tokens, {training}"),
        outlook.schedule(context),
        outlook.control(context, costs["distilled_student"]),
        *_cache(context),
        *_study(context, costs["study"]),
        *([("stable phase", f"the first {stable:,} tokens, which other budgets share")] if stable else []),
        (
            "batch",
            f"{batches.global_batch} blocks of {length:,} tokens: {counted(ranks, 'process')} x "
            f"{counted(batches.micro_batch, 'block')} x {counted(batches.accumulation, 'accumulation step')}",
        ),
        outlook.hours(context, total, ranks, typical.middle),
        ("processes", f"{ranks} on {context.device.type}, {context.precision}, ZeRO {stage}"),
        *memory.rows(context, typical.middle),
        ("disk", f"at least {disk.need(context, typical.middle, size)}"),
    ]


def _vocabulary(context: Context) -> list[tuple[str, str]]:
    if context.uncut_vocabulary is None:
        return []
    whole = context.describe(context.config.teacher)
    kept = f"{context.architecture.vocab_size:,} of {whole.vocab_size:,} tokens"
    return [("vocabulary", f"{kept}; the whole teacher has {parameters(whole):,} parameters")]


def _choice(context: Context) -> list[tuple[str, str]]:
    """What the student's shape is chosen from."""
    config, fits = context.config, ("bin", str(context.bin))
    if config.draws:
        space = config.space
        return [fits, ("space", f"{space.granularity} {space.sharing}, layers by {space.layers}")]
    if config.searches:
        return [fits, ("space", f"none: the sub-network of {config.search.path}")]
    return [("space", f"none: the student of {config.distill.from_run}")]


def _search(context: Context, costs: dict[str, int], forward: int) -> list[tuple[str, str]]:
    """What finds the student's shape."""
    if not context.config.searches:
        return [("search", "none")]
    config, length = context.config.search, context.config.data.block_size
    scoring = forward + teacher_flops(config, context.architecture, length)[1]
    expected, baseline = forecast.expected(config, length, scoring), ""
    if config.random_baseline:
        price = f" ({costs['random_search']:.3g} FLOPs)" if expected else ""
        baseline = f", and random ones on as many{price}"
    if expected is None:
        found = (
            f"as many evaluations as {config.strategy} asks for{baseline}: a number that only the strategy knows, so "
            "their cost is not counted; set search.limit.evaluations to bound it"
        )
    else:
        most = "at most " if forecast.candidates(config) is None else ""
        evaluations = counted(expected.evaluations, "evaluation")
        found = f"{most}{evaluations}, {expected.tokens:,} tokens, {costs['search']:.3g} FLOPs{baseline}"
    unspent = forecast.unspent(config, length, scoring)
    return [
        *_errors(context, costs["errors"]),
        ("search", found),
        *([("search's limit", unspent)] if unspent else []),
        *_rerank(context, costs["rerank"]),
    ]


def _errors(context: Context, flops: int) -> list[tuple[str, str]]:
    if not context.config.search.reads_errors:
        return []
    tokens = context.config.ordering.blocks * context.config.data.block_size
    return [("reconstruct", f"{tokens:,} tokens, {flops:.3g} FLOPs")]


def _cache(context: Context) -> list[tuple[str, str]]:
    """The logits cache, where there is one, as a run that finds it empty would leave it."""
    if not context.config.distill.cached:
        return []
    tokens, size, flops, seconds = cache.cost(context)
    time = (
        "time unknown"
        if seconds is None
        else f"{outlook.duration(seconds)} at this machine's matrix-multiplication speed"
    )
    kind = context.config.distill.cache.kind
    return [("logits cache", f"{kind}, {tokens:,} tokens, {_bytes(size)}; {flops:.3g} FLOPs to fill, {time}")]


def _recover(context: Context, student: SubNetwork) -> list[tuple[str, str]]:
    if not (roles := recover.roles(context)):
        return []
    tokens = recover.block_count(context) * context.config.data.block_size
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
    mlp = f"{a.n_expert} experts ({a.n_expert_per_token} per token) of" if a.n_expert else "MLP"
    return f"{a.n_layer} layers, width {a.n_embd}, {heads} of {a.head_size}, {mlp} {a.intermediate_size}"


def _active(a: Architecture) -> str:
    return f", {parameters(a, count='active'):,} active" if a.n_expert else ""


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
