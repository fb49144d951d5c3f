"""Stage export, on request: the student of a finished run as a Hugging Face folder, outside the store."""

import json
import logging
import shlex
from pathlib import Path

from pipeline.artifacts import digest
from pipeline.artifacts.runs import refuse_inside
from pipeline.config import Config, GGUFKind, to_plain
from pipeline.layout import near
from pipeline.models import checkpoint
from pipeline.models.export import folder, gguf
from pipeline.places import refuse_unwritable
from pipeline.report import material
from pipeline.stages import distill, graph
from pipeline.stages.context import Context, Steps
from pipeline.subnetwork.exported import exported
from pipeline.subnetwork.value import SubNetwork

STAGE = "export"
BLOCKS = 4  # validation blocks that the export is compared on

log = logging.getLogger("sprig")


def check(context: Context) -> None:
    """Before anything runs: is there room for the export, and can it be what is asked for.

    Raises:
        SprigError: `export.to` exists and is not this very export, lies in the store or a run, or cannot be made, or a
            GGUF file cannot hold the family.
    """
    to = _target(context.config)
    if (found := folder.mark_of(to)) is None or found != _mark(context, graph.build(context)):
        folder.refuse_existing(to)
    refuse_inside("export.to", to, context.store.root)
    refuse_unwritable("export.to", to)
    if context.config.export.gguf != GGUFKind.none:
        gguf.refuse(context.architecture)


def reads(context: Context) -> list[str]:
    """The roles of the steps that it reads."""
    return ["distilled_student", "tokens"]


def _target(config: Config) -> Path:
    assert config.export.to is not None  # the schema asks for it
    return Path(config.export.to)


def _mark(context: Context, steps: Steps) -> str:
    """What tells this export from all others."""
    asked = to_plain(context.config.export) | {"to": _target(context.config).name}
    return digest([steps["distilled_student"].recipe.fingerprint, asked, context.config.teacher.license])


def run(context: Context, steps: Steps) -> None:
    """Writes, checks and publishes the export of the run's student; see pipeline.models.export.folder.

    Raises:
        SprigError: the run has no finished student, or teacher.litgpt names another family than the student's; or as
            folder.export.
    """
    from pipeline.on_request.card import card  # with matplotlib, which other commands do without

    config, to = context.config, _target(context.config)
    if folder.mark_of(to) == _mark(context, steps):
        log.info("%s holds this export already; to write it anew, remove it first", near(to))
        return
    trained = distill.trained(context, steps["distilled_student"])
    student = checkpoint.load(trained, "cpu")
    folder.refuse_other(student, context.architecture, ("family",))
    summary = material.summary_of(context, steps)
    blocks = context.evenly(
        steps["tokens"].recipe, "validation", min(BLOCKS, config.evaluate.blocks), "evaluate.blocks"
    )
    sub = SubNetwork.from_dict(json.loads((trained / checkpoint.SUBNETWORK).read_text(encoding="utf-8")))
    published = folder.export(
        student,
        trained,
        to,
        config.export.form,
        blocks[:, :-1],
        lambda form, written: card(to.name, form, written, config.export, summary, sub, config.teacher, trained),
        config.export.gguf,
        config.export.dtype,
        _mark(context, steps),
    )
    size = exported(context.architecture, sub, published.form).parameters
    log.info(
        "%s: the student (form %s), %s parameters; compared on %d blocks, its largest logit difference is %.2g",
        near(to),
        published.form,
        f"{size:,}",
        len(blocks),
        published.difference,
    )
    if config.export.gguf != GGUFKind.none:
        written = json.loads((to / "config.json").read_text(encoding="utf-8"))
        if caveat := gguf.caveat(written):
            log.warning(caveat)
    if material.STAGE not in config.stages:  # the ending of a whole run has it among its next commands
        log.info("Next, to publish it: hf upload OWNER/%s %s", shlex.quote(to.name), shlex.quote(str(near(to))))
