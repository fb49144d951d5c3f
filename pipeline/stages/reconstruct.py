"""Stage reconstruct: what each cut of a layer's heads and neurons would cost the loss, for searches that read it."""

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts import CHECKPOINTS, Recipe, write_json
from pipeline.config import material
from pipeline.errors import SprigError
from pipeline.models import checkpoint, reconstruction
from pipeline.models.reconstruction import Passed
from pipeline.stages import order
from pipeline.stages.context import Context
from pipeline.subnetwork.allocation import Errors

STAGE, VERSION = "reconstruct", 1
ERRORS, COSTS = "errors.npz", "costs.json"


def recipe(context: Context, teacher: Recipe, tokens: Recipe, ordering: Recipe | None) -> Recipe:
    """On the blocks that the ordering is measured on, in as large batches."""
    reconstruction.refuse(context.architecture)
    own = material(context.config.ordering, "kind") | {"precision": context.precision}
    inputs = {"teacher": teacher, "tokens": tokens} | ({"ordering": ordering} if ordering else {})
    return Recipe(STAGE, VERSION, own, {name: each.fingerprint for name, each in inputs.items()})


def make(
    context: Context, recipe: Recipe, folder: Path, teacher: Recipe, tokens: Recipe, ordering: Recipe | None
) -> None:
    config = context.config
    blocks = context.evenly(tokens, "calibration", config.ordering.blocks, "ordering.blocks")
    model, state = context.teacher(teacher, config.teacher), folder / CHECKPOINTS / "passed.pt"
    errors = reconstruction.measure(
        model,
        order.load(context, ordering),
        blocks,
        context.precision,
        config.ordering.batch,
        begun=_resumed(state),
        on_layer=partial(_keep, state),
    )
    np.savez(folder / ERRORS, allow_pickle=False, **vars(errors))
    write_json(folder / COSTS, {"tokens": blocks[:, 1:].numel(), "flops": flops(context)})


def _keep(state: Path, passed: Passed) -> None:
    """One file, which each layer replaces: an interrupted pass resumes from there."""
    errors = {name: torch.from_numpy(value) for name, value in vars(passed.errors).items()}
    checkpoint.keep({"number": passed.number, "errors": errors, "gradients": passed.gradients}, state)


def _resumed(state: Path) -> Passed | None:
    saved = checkpoint.kept(state)
    if saved is None:
        return None
    errors = Errors(**{name: value.numpy() for name, value in saved["errors"].items()})
    return Passed(saved["number"], errors, saved["gradients"])


def memory(context: Context) -> int:
    """Bytes of one layer's sums, in addition to the teacher and its passes, at their most: the Gram matrices of both
    projections; of the larger one three copies, reordered, ridged and factored; and its weights twice. All in fp64."""
    a = context.architecture
    queries, neurons = a.n_head * a.head_size, a.intermediate_size
    largest = max(queries, neurons)
    return 8 * (queries**2 + neurons**2 + 3 * largest**2 + 2 * a.n_embd * largest)


def flops(context: Context) -> int:
    config = context.config
    return reconstruction.flops(context.architecture, config.ordering.blocks, config.data.block_size)


def load(context: Context, recipe: Recipe) -> Errors:
    """Raises SprigError where the file cannot be read, or as Context.made."""
    path = context.made(recipe) / ERRORS
    try:
        with np.load(path, allow_pickle=False) as file:
            return Errors(file["attention"], file["mlp"], file["dropped"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SprigError(f"{path} cannot be read as reconstruction errors: {error}. Make it again.") from error
