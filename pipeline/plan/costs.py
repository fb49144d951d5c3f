"""What the stages of a run would cost, from sub-networks that stand for what the search may find."""

from dataclasses import dataclass

import numpy as np

from pipeline.config import Init, OrderingKind, Strategy
from pipeline.search import forecast
from pipeline.search.budget import teacher_flops
from pipeline.stages import cache, extract, order, recover, rerank, search, study
from pipeline.stages.budget import budget
from pipeline.stages.context import Context
from pipeline.stages.roots import roots
from pipeline.subnetwork.counting import flops_per_token, parameters, training_flops
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import SubNetwork

SAMPLES = 64  # sub-networks that stand for the space in an estimate


@dataclass(frozen=True)
class Typical:
    """Sub-networks that stand for what the search may find: `middle` is of median size, `size` their median parameters,
    `forward` their median forward FLOPs per token."""

    students: list[SubNetwork]
    middle: SubNetwork
    size: int
    forward: int


def typical(context: Context) -> Typical:
    config, teacher = context.config, context.architecture
    if config.distill.init == Init.trained:
        students = [extract.finished(context).sub]
    elif config.search.strategy == Strategy.given:
        students = [search.read_given(context, roots(context))]
    else:
        students = context.draws(Ordering.identity(teacher), np.random.default_rng(config.seed), SAMPLES)
    sizes = [parameters(teacher, sub) for sub in students]
    forward = int(np.median([flops_per_token(teacher, sub, length=config.data.block_size) for sub in students]))
    middle = students[int(np.argsort(sizes)[len(sizes) // 2])]
    return Typical(students, middle, int(np.median(sizes)), forward)


def is_complete(context: Context) -> bool:
    """Whether `flops` counts all that a run would do."""
    config = context.config
    return not config.searches or forecast.expected(config.search, config.data.block_size, 1) is not None


def flops(context: Context, students: Typical | None = None) -> dict[str, int]:
    """About how many FLOPs each step costs, by its role; a role that is not named costs next to none. A search whose
    evaluations only its strategy knows counts without them."""
    config, length = context.config, context.config.data.block_size
    students = students or typical(context)
    forward = students.forward
    once, head = teacher_flops(config.search, context.architecture, length)
    expected = forecast.expected(config.search, length, forward + head)
    searched = once + (forward + head) * (expected.tokens if expected else 0)
    searched = min(searched, config.search.limit.flops or searched)
    reranked = rerank.expected(context) * rerank.flops(context, forward) if config.search.rerank.candidates else 0
    ordered = config.ordering.blocks * length * order.flops_of_a_token(context)
    trained = training_flops(forward) * budget(context) + cache.teacher_flops(context, budget(context))
    shaping = {
        "errors": search.errors_flops(context, config.search),
        "search": searched,
        "random_search": searched,
        "rerank": reranked,
    }
    return {
        "ordering": ordered if config.ordering.kind != OrderingKind.none else 0,
        **(shaping if context.config.searches else dict.fromkeys(shaping, 0)),
        **{f"recovered_{role}": recover.flops(context, students.middle) for role in recover.roles(context)},
        **{f"distilled_{role}": trained for role in extract.roles(context)},
        "study": config.study.subnetworks * study.flops(context, students.middle) if config.study.subnetworks else 0,
    }
