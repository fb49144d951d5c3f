"""Stage extract: the weights of a sub-network, fresh ones in its shape, or those of a finished run, as a model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from litgpt import GPT

from pipeline.artifacts import LINKS, MANIFEST, Recipe, read_manifest
from pipeline.artifacts import check as check_files
from pipeline.config import Init
from pipeline.errors import SprigError
from pipeline.models import checkpoint
from pipeline.models.extraction import extract
from pipeline.models.student import initialize
from pipeline.stages import order, rerank, search
from pipeline.stages.context import Context
from pipeline.stages.roots import Roots
from pipeline.subnetwork.about import About, about
from pipeline.subnetwork.selection import Ordering
from pipeline.subnetwork.value import ABOUT, SubNetwork

STAGE, VERSION = "extract", 1
RANDOM_SUBNETWORK, RANDOM_WEIGHTS = 3, 4  # purposes of the generators
TRAINED, TEACHER = "distilled_student", "teacher"  # roles of a run


def roles(context: Context) -> list[str]:
    """The models that a run trains."""
    return ["student", "control"] if context.config.distill.control.enabled else ["student"]


def init_of(context: Context, role: str) -> Init:
    distill = context.config.distill
    return distill.init if role == "student" else distill.control.init


def needs_search(context: Context, role: str) -> bool:
    return context.config.distill.takes_searched_shape(init_of(context, role))


def recipe(context: Context, role: str, roots: Roots, found: Recipe | None) -> Recipe:
    """`found` is the search, or its rerank, that the shape comes from; None where it is drawn."""
    init = init_of(context, role)
    inputs = {"teacher": roots.teacher.fingerprint, "ordering": roots.ordering_fingerprint}
    if init == Init.trained:
        inputs = {"teacher": roots.teacher.fingerprint, "student": finished(context).student}
        return Recipe(STAGE, VERSION, {"init": init}, inputs)
    own: dict = {"init": init, "shape": "drawn" if found is None else "searched"}
    if found is None:
        own |= {"space": search.space_part(context), "bin": search.edges(context)}
    else:
        inputs[found.stage] = found.fingerprint
    if init != Init.searched:
        own["seed"] = context.config.seed
    return Recipe(STAGE, VERSION, own, inputs)


def make(context: Context, recipe: Recipe, folder: Path, role: str, roots: Roots, found: Recipe | None) -> None:
    config = context.config
    if init_of(context, role) == Init.trained:
        _copy(context, folder)
        return
    ordering = order.load(context, roots.ordering)
    sub = _draw(context, ordering) if found is None else rerank.winner(context, found)
    drawn = about(config.teacher.name, context.architecture, sub, None, context.uncut_vocabulary)
    noted = drawn if found is None else _noted(context.made(found) / search.WINNER)
    model = extract(context.teacher(roots.teacher, config.teacher), sub, ordering).float()
    if init_of(context, role) == Init.random_weights:
        seed = int(np.random.SeedSequence([config.seed, RANDOM_WEIGHTS]).generate_state(1)[0])
        initialize(model, seed)
    checkpoint.save(model, folder, sub, context.made(roots.teacher), noted)


def check(context: Context, roots: Roots) -> None:
    """Before anything runs.

    Raises:
        SprigError: distill.from_run is not a finished run, or its student has another vocabulary or teacher.
    """
    distill, own = context.config.distill, roots.teacher.fingerprint
    if distill.init != Init.trained or (found := finished(context)).teacher == own:
        return
    if (kept := context.config.space.vocabulary) != found.vocabulary:
        raise SprigError(
            f"The student of distill.from_run={distill.from_run} has space.vocabulary={_given(found.vocabulary)}, but "
            f"this run has {_given(kept)}: give it the same."
        )
    theirs, ours = found.teacher_name, context.config.teacher.name
    if theirs in (None, ours):  # only the fingerprints tell them apart
        theirs, ours = f"{theirs} ({found.teacher})" if theirs else found.teacher, f"{ours} ({own})"
    raise SprigError(
        f"The student of distill.from_run={distill.from_run} was cut out of teacher {theirs}, but this run has {ours}: "
        f"give it the same teacher{'' if kept is None else ', and the same text'}."
    )


def _given(vocabulary: int | None) -> str:
    return "null" if vocabulary is None else str(vocabulary)


@dataclass(frozen=True)
class Finished:
    """The trained student of distill.from_run: the fingerprints of itself and its teacher, its sub-network, its
    space.vocabulary, and its teacher's name, which earlier versions of Sprig did not note."""

    student: str
    teacher: str
    sub: SubNetwork
    vocabulary: int | None
    teacher_name: str | None


def finished(context: Context) -> Finished:
    """
    Raises:
        SprigError: there is no trained student.
    """
    links = _links(context)

    def read() -> dict[str, Any]:
        if not links.parent.exists():
            raise SprigError(
                f"distill.from_run={links.parent} does not exist, and no run of that name is in "
                f"{context.config.outputs}: name a finished run, as `sprig runs` shows it."
            )
        if not (links / TRAINED / MANIFEST).is_file():
            raise SprigError(
                f"distill.from_run={links.parent} has no trained student: name the folder of a finished run."
            )
        made = {name: read_manifest((links / name).resolve()) for name in (TRAINED, TEACHER)}
        found = {name: manifest["fingerprint"] for name, manifest in made.items()}
        sub = json.loads((links / TRAINED / checkpoint.SUBNETWORK).read_text(encoding="utf-8"))
        return found | {"sub": sub, "vocabulary": made[TEACHER]["config"].get("vocabulary")}

    found = context.facts.get(f"student of {links.parent}", read)
    sub, name = SubNetwork.from_dict(found["sub"]), (found["sub"].get(ABOUT) or {}).get("teacher")
    return Finished(found[TRAINED], found[TEACHER], sub, found.get("vocabulary"), name)


def _links(context: Context) -> Path:
    named = context.config.distill.from_run
    assert named is not None  # the schema asks `trained` for it
    return Path(named) / LINKS


def _copy(context: Context, folder: Path) -> None:
    """The finished student itself, so that this run does not need the other one any more."""
    student, wanted = (_links(context) / TRAINED).resolve(), finished(context)
    check_files(student)
    if (found := read_manifest(student)["fingerprint"]) != wanted.student:
        raise SprigError(
            f"The student of distill.from_run={context.config.distill.from_run} was {wanted.student} when this run "
            f"began, and is {found} now: start a new run, with another run_name."
        )
    noted = _noted(student / checkpoint.SUBNETWORK)
    checkpoint.save(checkpoint.load(student, "cpu"), folder, wanted.sub, student, noted)


def subnetwork(context: Context, start: Recipe) -> SubNetwork:
    """Which sub-network an extracted or recovered student is."""
    return SubNetwork.from_dict(json.loads((context.made(start) / checkpoint.SUBNETWORK).read_text(encoding="utf-8")))


def save(context: Context, start: Recipe, model: GPT, folder: Path) -> None:
    """Writes a student that was made from `start`, whose tokenizer and notes it keeps."""
    begun = context.made(start)
    checkpoint.save(model, folder, subnetwork(context, start), begun, _noted(begun / checkpoint.SUBNETWORK))


def _noted(file: Path) -> About | None:
    """What the file says about its sub-network; None in files of earlier versions of Sprig."""
    found: About | None = json.loads(file.read_text(encoding="utf-8")).get(ABOUT)
    return found


def _draw(context: Context, ordering: Ordering) -> SubNetwork:
    rng = np.random.default_rng([context.config.seed, RANDOM_SUBNETWORK])
    return context.draws(ordering, rng)[0]
