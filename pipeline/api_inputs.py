"""Checks what the Python API is given before any work: one sentence instead of an error from inside torch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor

from pipeline.command_line.composition import compose
from pipeline.config import Config, Precision
from pipeline.config.checks import check
from pipeline.config.choices import DataSource, Source
from pipeline.config.inputs import TeacherConfig
from pipeline.config.paths import absolute
from pipeline.errors import SprigError
from pipeline.models.checkpoint import WEIGHTS
from pipeline.models.families import architecture_of, is_tied
from pipeline.models.precision import resolve_precision
from pipeline.models.weights import check_finite
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.counting import parameters
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.space import Space
from pipeline.subnetwork.value import SubNetwork


def check_type(name: str, given: Any, kind: Any, wanted: str) -> None:
    """Raises SprigError where it is not of its kind."""
    if not isinstance(given, kind):
        raise SprigError(f"{name} must be {wanted}, but is a {type(given).__name__}.")


def teacher_at(path: Path) -> TeacherConfig:
    """A teacher of the user's own: a GGUF file, or a folder of transformers or litgpt."""
    folder = Source.litgpt if (path / WEIGHTS).exists() else Source.hf
    return TeacherConfig(name=path.name, source=Source.gguf if path.is_file() else folder, path=str(path))


def text_at(path: Path) -> dict[str, Any]:
    """A text of the user's own, as fields of the data's configuration."""
    return {"name": path.name, "source": DataSource.text, "path": str(path)}


def destination(to: Any) -> Path:
    """Where to write.

    Raises:
        SprigError: it is not a path, or an empty one.
    """
    check_type("to", to, str | Path, "a path")
    if to == "":
        raise SprigError("to is empty: give the path of a folder that does not exist yet.")
    return Path(absolute(str(to)))


def path_of(what: str, given: str | Path) -> Path | None:
    """Where something of the user's own is; None if it is a name in the configuration.

    Raises:
        SprigError: it can only be a path, and does not exist; or it is neither name nor path.
    """
    if not isinstance(given, str | Path):
        raise SprigError(f"The {what} must be a name of conf/{what} or a path, but is a {type(given).__name__}.")
    check(what, str(given), {})
    path = Path(absolute(str(given))).resolve()
    if given and path.exists():
        return path
    if isinstance(given, Path) or "/" in given:
        raise SprigError(f"The {what} {given} does not exist: give a path that does, or a name of conf/{what}.")
    return None


def check_device(device: str) -> None:
    try:
        if torch.empty(0, device=torch.device(device)).is_meta:
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise SprigError(f"device={device} cannot be used here ({reason}): use device=cpu.") from None


def check_model(name: str, model: Any) -> None:
    """Raises SprigError where it is not a litgpt model, or its weights are not there or not finite."""
    if not hasattr(model, "lm_head"):
        hint = f"give its model, {name}.model" if hasattr(model, "model") else "load one with load_teacher or extract"
        raise SprigError(f"{name} must be a litgpt GPT, but is a {type(model).__name__}: {hint}.")
    first = next(model.parameters())
    if first.is_meta:
        raise SprigError(f"The {name} is on the meta device, where weights have no values: load it on a CPU or GPU.")
    if first.is_inference():
        raise SprigError(
            f"The {name} was made under torch.inference_mode(), where no weight can be trained: give a copy that is "
            "made outside it, copy.deepcopy(model)."
        )
    for own, weight in model.named_parameters():
        check_finite(f"The {name}'s {own}", weight, "load or extract the model again")


def check_teacher(teacher: Any) -> None:
    """Raises SprigError where it is not a teacher with its folder."""
    if not hasattr(teacher, "folder"):
        raise SprigError(
            f"teacher must be what load_teacher returns, or Teacher(model, folder), but is a {type(teacher).__name__}."
        )


def check_fp32(student: Any) -> None:
    """Raises SprigError where it is not a litgpt model in fp32."""
    check_model("student", student)
    for name, weight in student.named_parameters():
        if weight.dtype != torch.float32:
            raise SprigError(f"The student's {name} is {weight.dtype}, not torch.float32: give student.float().")


def check_trainable(teacher: Any, student: Any) -> None:
    """Raises SprigError where they are not models, or the student is not in fp32, has frozen weights, or is the
    teacher."""
    check_model("teacher", teacher)
    check_fp32(student)
    if student is teacher:
        raise SprigError("student and teacher are the same model: give a copy as the student, copy.deepcopy(teacher).")
    if frozen := [name for name, weight in student.named_parameters() if not weight.requires_grad]:
        raise SprigError(
            f"The student's {frozen[0]} is frozen, but all weights must be trainable: call student.requires_grad_()."
        )


def tokens(model: Any, blocks: Any) -> Tensor:
    """Blocks (n, T + 1) of the model's tokens, as int64.

    Raises:
        SprigError: they are not such a tensor, hold tokens that the model does not have, or it is not a litgpt model.
    """
    check_model("model", model)
    if isinstance(blocks, Tensor) and (blocks.is_meta or blocks.layout != torch.strided):
        raise SprigError(f"Blocks must be a dense tensor with values, but are {blocks.layout} on {blocks.device}.")
    whole_numbers = isinstance(blocks, Tensor) and not (blocks.is_floating_point() or blocks.is_complex())
    if not whole_numbers or blocks.dtype == torch.bool or blocks.dim() != 2 or not len(blocks) or blocks.size(1) < 2:
        shown = (
            f"{blocks.dtype} of shape {tuple(blocks.shape)}"
            if isinstance(blocks, Tensor)
            else f"a {type(blocks).__name__}"
        )
        raise SprigError(
            f"Blocks must be an int64 tensor (n, T + 1) of at least one block of two tokens, but are {shown}: use, for "
            "example, text.validation.evenly(16)."
        )
    blocks, known = blocks.long(), model.config.vocab_size
    for token in (int(blocks.min()), int(blocks.max())):
        if not 0 <= token < known:
            raise SprigError(
                f"Blocks hold the token {token}, but {model.config.name} has 0..{known - 1}: use its tokenizer."
            )
    return blocks


def check_split(blocks: Any) -> None:
    """Raises SprigError where it is not a split of a text."""
    if not hasattr(blocks, "block_size"):
        raise SprigError(f"Blocks must be a split of a text, such as text.train, but are a {type(blocks).__name__}.")


def architecture_for(teacher: GPT, ordering: Any) -> Architecture:
    """The teacher's.

    Raises:
        SprigError: the ordering ranks the entries of another teacher.
    """
    check_model("teacher", teacher)
    architecture = architecture_of(teacher.config, is_tied(teacher))
    if ordering is not None:
        if not isinstance(ordering, Ordering):
            raise SprigError(f"ordering must be that of importance(teacher, blocks), not a {type(ordering).__name__}.")
        own = Ordering.identity(architecture)
        for name in ("layers", "embedding", "groups", "heads", "values", "neurons"):
            given, expected = getattr(ordering, name).shape, getattr(own, name).shape
            if given != expected:
                raise SprigError(
                    f"The ordering is of another teacher: it ranks {name} of shape {given}, but {architecture.name} "
                    f"has {expected}. Rank this teacher's with importance."
                )
    return architecture


def check_drawing(space: Space, rng: Any, *members: Any) -> None:
    """Raises SprigError where the generator is not NumPy's, or a member is not a sub-network of the space."""
    check_type("rng", rng, np.random.Generator, "a generator, such as numpy.random.default_rng(0)")
    for member in members:
        check_type("A member", member, SubNetwork, "a sub-network, such as found.subnetwork")
        if not space.contains(member):
            raise SprigError("A member is not in this space and its bin: take one from sample, mutate or crossover.")


def check_space(teacher: GPT, space: Any) -> None:
    """Raises SprigError where it is not a space of this teacher."""
    if not isinstance(space, Space):
        raise SprigError(f"space must be a SearchSpace(teacher, low, high), but is a {type(space).__name__}.")
    _of_this(teacher, space, "space", "make one of {}, SearchSpace(teacher, low, high)")


def check_found(teacher: GPT, found: Any) -> Architecture:
    """The teacher's.

    Raises:
        SprigError: it is not the result of a search in this teacher.
    """
    if not hasattr(found, "subnetwork"):
        raise SprigError(f"found must be what find returns, but is a {type(found).__name__}.")
    return _of_this(teacher, found, "sub-network", "search {} with find")


def _of_this(teacher: GPT, given: Any, what: str, fix: str) -> Architecture:
    """The teacher's, which `given` must have; `fix` has a place for its name."""
    if (own := architecture_for(teacher, given.ordering)) != given.architecture:
        raise SprigError(f"The {what} is of another teacher, {given.architecture.name}: {fix.format(own.name)}.")
    return own


def check_passes(tokens: int, text: int, most: int) -> None:
    """Raises SprigError where a training on `tokens` reads its `text`, counted in tokens, more than `most` times."""
    if tokens > most * text:
        raise SprigError(
            f"tokens={tokens:,} would read the {text:,} tokens of blocks {tokens / text:,.1f} times, and more than "
            f"{most} needs repeat=True: set it, lower tokens to {most * text:,}, or give more text."
        )


def check_extract(student: GPT, architecture: Architecture, sub: SubNetwork) -> None:
    """Raises SprigError where the student is not in fp32, or has not the size of the sub-network."""
    check_fp32(student)
    own, expected = sum(each.numel() for each in student.parameters()), parameters(architecture, sub)
    if own != expected:
        raise SprigError(
            f"The student has {own:,} parameters, but the sub-network that was found has {expected:,}: give that of "
            "extract(teacher, found)."
        )


def quickstart(group: str, name: str | None, outputs: str | Path) -> Config:
    """The quickstart's configuration, with this choice of one group, if any."""
    check_type("outputs", outputs, str | Path, "a path")
    chosen = [] if name is None else [f"{group}={name}"]
    return compose(["experiment=quickstart", f"outputs={outputs}", *chosen])


def precision(model: GPT) -> str:
    """That of the model's device."""
    return resolve_precision(Precision.auto, next(model.parameters()).device)
