"""Stage recover: a cut student's projections, refitted in closed form to the teacher's activations."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from litgpt import GPT
from torch import Tensor

from pipeline.artifacts import CHECKPOINTS, Recipe, write_json
from pipeline.config import Init, material
from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.models.recovery import costs
from pipeline.models.recovery.layers import Refit
from pipeline.models.recovery.recover import RefittedLayer, Report, Settings, recover
from pipeline.ranks import rank, world_size
from pipeline.stages import extract, order
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.selection import select
from pipeline.subnetwork.value import SubNetwork
from pipeline.training import distributed

STAGE, VERSION = "recover", 2
RESULT = "recovery.json"


def applies(context: Context, role: str) -> bool:
    """Whether a role's model is recovered: neither random weights nor trained ones have lost anything by a cut."""
    cut = extract.init_of(context, role) in (Init.searched, Init.random_subnetwork)
    return context.config.recover.enabled is not False and cut


def roles(context: Context) -> list[str]:
    """The models of a run that are recovered."""
    return [role for role in extract.roles(context) if applies(context, role)]


def check(context: Context) -> None:
    """Before anything runs.

    Raises:
        SprigError: recovery is asked for a student of random weights, or on fewer than two blocks.
    """
    config, length = context.config, context.config.data.block_size
    if config.recover.enabled and not applies(context, "student"):
        raise SprigError(
            f"recover.enabled=true, but distill.init={config.distill.init} leaves nothing to recover: set "
            "recover=auto, or choose another distill.init."
        )
    if roles(context) and block_count(context) < 2:
        raise SprigError(
            f"recover.tokens={config.recover.tokens:,} gives {block_count(context)} blocks of {length:,} tokens, and "
            "recovery needs at least 2, one to fit and one held out: raise it, or lower data.block_size."
        )


def block_count(context: Context) -> int:
    """Of training blocks that recovery reads."""
    return context.config.recover.tokens // context.config.data.block_size


def own(context: Context) -> dict:
    """What determines a recovery, except for its inputs."""
    return material(context.config.recover, "enabled", "tokens") | {
        "version": VERSION,
        "blocks": block_count(context),
        "precision": context.precision,
    }


def recipe(context: Context, roots: Roots, start: Recipe) -> Recipe:
    """`start` makes the cut student."""
    inputs = {"teacher": roots.teacher, "tokens": roots.tokens, "start": start}
    return Recipe(STAGE, VERSION, own(context), {name: each.fingerprint for name, each in inputs.items()})


def make(context: Context, recipe: Recipe, folder: Path, roots: Roots, start: Recipe) -> None:
    """All ranks make it together, each from its share of the blocks. Finished layers survive a kill."""
    layers = folder / CHECKPOINTS
    student = context.student(start, context.device)
    report = refit(context, roots, student, extract.subnetwork(context, start), layers)
    if rank() == 0:
        extract.save(context, start, student, folder)
        write_json(folder / RESULT, {"flops": flops(context, extract.subnetwork(context, start)), **asdict(report)})


def flops(context: Context, sub: SubNetwork) -> int:
    return costs.flops(context.architecture, sub, *_size(context))


def memory(context: Context, sub: SubNetwork) -> int:
    """Bytes in addition to teacher, student and a forward pass."""
    return costs.memory(context.architecture, sub, *_size(context))


def _size(context: Context) -> tuple[int, int, Settings]:
    return block_count(context), context.config.data.block_size, _settings(context)


def _settings(context: Context) -> Settings:
    config = context.config.recover
    return Settings(tuple(config.ridges), batch=config.batch, precision=context.precision)


def refit(context: Context, roots: Roots, student: GPT, sub: SubNetwork, layers: Path | None = None) -> Report:
    """Recovers a cut student in place; `layers` keeps what is finished, and an interrupted recovery resumes from there.

    Raises:
        SprigError: the training split has fewer blocks; or as pipeline.models.recovery.recover.recover.
    """
    config, finished = context.config, []
    if world_size() > 1:
        distributed.start(context.device)
    if layers is not None:
        finished = _finished(layers)
        finished = finished[: _agreed(len(finished))]  # a shared disk may show one rank less than another
    return recover(
        context.teacher(roots.teacher, config.teacher),
        student,
        sub,
        select(sub, context.architecture, order.load(context, roots.ordering)),
        training_blocks(context, roots),
        _settings(context),
        finished=finished,
        on_layer=partial(_save, layers) if layers is not None and rank() == 0 else lambda number, layer: None,
        share=(rank(), world_size()),
        reduce=distributed.summed if world_size() > 1 else None,
    )


def training_blocks(context: Context, roots: Roots) -> Tensor:
    """The blocks (n, T + 1) that recovery reads, evenly spread over the training split: the few documents of the
    calibration split are not enough to fit so many weights (benchmarks/RESULTS.md).

    Raises:
        SprigError: the text has fewer.
    """
    there = context.blocks(roots.tokens, "train")
    if block_count(context) > len(there):
        config = context.config
        raise SprigError(
            f"recover.tokens={config.recover.tokens:,} asks for {block_count(context)} blocks, but the training split "
            f"of data {config.data.name} has {len(there)} of {there.block_size} tokens: lower recover.tokens to "
            f"{len(there) * there.block_size:,}, or give more text."
        )
    return there.evenly(block_count(context))


def result(folder: Path) -> dict:
    """What a finished recovery reports: `flops`, and the fields of pipeline.models.recovery.recover.Report."""
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _agreed(count: int) -> int:
    """Rank 0's count, on every rank."""
    return count if world_size() == 1 else distributed.broadcast(count)


def _finished(layers: Path) -> list[RefittedLayer]:
    """From the first one on."""
    found: list[RefittedLayer] = []
    while (saved := checkpoint.kept(_file(layers, len(found)))) is not None:
        found.append(RefittedLayer(saved["weights"], tuple(Refit(**each) for each in saved["refits"])))
    return found


def _file(layers: Path, number: int) -> Path:
    return layers / f"layer-{number}.pt"


def _save(layers: Path, number: int, layer: RefittedLayer) -> None:
    checkpoint.keep(
        {"weights": layer.weights, "refits": [asdict(each) for each in layer.refits]}, _file(layers, number)
    )
