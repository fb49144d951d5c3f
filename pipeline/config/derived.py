"""Values that a preset derives from others, so that a bin and a token budget are all that a user has to choose.

In a preset: `tokens: ${tokens_per_parameter:20}` and `global_batch: ${batch_for_the_budget:}`. A value that is set
takes their place, and the configuration that a run keeps holds the values. On the command line, `budget` sets the
tokens in the unit that it is given in.
"""

import math
import os
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline.config.choices import STAGES, Layers, OrderingKind
from pipeline.config.paths import absolute
from pipeline.config.values import count
from pipeline.errors import SprigError

BATCH_TOKENS = 1 << 19  # tokens of an optimizer step at the budget below: about half a million
BUDGET = 10 * 10**9
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"


def register_resolvers() -> None:
    for resolver in (
        tokens_per_parameter,
        batch_for_the_budget,
        all_stages,
        layers_by_ordering,
        name_of_its_path,
    ):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def tokens_of(budget: str) -> str:
    """The value of distill.tokens for a budget in tokens, 2B, in tokens per parameter, 20x, or in hours of training at
    a speed in tokens per second, 8h@210k.

    Raises:
        SprigError: it is none of these.
    """
    if match := re.fullmatch(f"{_NUMBER}x", budget, re.IGNORECASE):
        return f"${{tokens_per_parameter:{match[1]}}}"
    timed = re.fullmatch(f"{_NUMBER} ?h(?:ours?)?(?:@(.*))?", budget, re.IGNORECASE)
    if timed and not timed[2]:
        raise SprigError(
            f"budget={budget} needs the speed of the machine: plan=measure without a budget prints it as a budget to "
            f"paste, such as budget={timed[1]}h@210k, hours at tokens per second."
        )
    try:
        return f"{round(float(timed[1]) * 3600 * count(timed[2]))}" if timed else f"{count(budget)}"
    except ValueError:
        raise SprigError(
            f"budget={budget} is not a budget: give tokens, budget=2B, tokens per parameter, budget=20x, or hours at "
            "tokens per second, budget=8h@210k, which plan=measure prints."
        ) from None


def tokens_per_parameter(ratio: float, *, _root_: DictConfig) -> int:
    """A token budget: `ratio` tokens for each parameter at the centre of the bin.

    Raises:
        SprigError: the bin has no size.
    """
    bin = _root_.bin
    if bin.center is None and (bin.low is None or bin.high is None):
        raise SprigError("bin.center has no value: give the size of the student, such as bin.center=500M.")
    return round(ratio * (bin.center or (bin.low + bin.high) // 2))


def batch_for_the_budget(*, _root_: DictConfig) -> int:
    """Blocks of an optimizer step, a power of two: 2**19 tokens at ten billion, and from there with the root of the
    budget, as the critical batch size grows (Zhang et al. 2024, https://arxiv.org/abs/2410.21676)."""
    blocks = BATCH_TOKENS * math.sqrt(_root_.distill.tokens / BUDGET) / _root_.data.block_size
    return 2 ** max(0, round(math.log2(max(blocks, 1))))


def all_stages(*, _root_: DictConfig) -> list[str]:
    """All stages of a run, and those on request that other keys ask for: the export if `export.to` names a folder, and
    the samples if there is a `prompt`."""
    asked = {"export": _root_.export.to is not None, "sample": _root_.prompt is not None}
    return [*STAGES, *(stage for stage, wanted in asked.items() if wanted)]


def layers_by_ordering(*, _root_: DictConfig) -> Layers:
    """The layers of a coarse space: the first of the ordering that its entries have too."""
    return Layers.rank if _root_.ordering.kind == OrderingKind.importance else Layers.prefix


def name_of_its_path(otherwise: str, *, _parent_: DictConfig) -> str:
    """The last part of the section's `path`, such as Llama-3.2-1B; `otherwise` for a glob, a list, or no path."""
    path = None if OmegaConf.is_missing(_parent_, "path") else _parent_.path
    if not isinstance(path, str) or re.search(r"[*?\[]", path):
        return otherwise
    place = Path(os.path.normpath(absolute(path)))
    if place.parent.name == "snapshots":  # of the hub's cache: models--OWNER--NAME/snapshots/COMMIT
        return place.parent.parent.name.rpartition("--")[2]
    return place.name or otherwise
