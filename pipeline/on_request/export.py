"""Stage export, on request: the student of a finished run as a Hugging Face folder, outside the store."""

import json
import logging
import shlex
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts import digest
from pipeline.artifacts.runs import refuse_inside
from pipeline.config import Config, ExportForm, GGUFKind, to_plain
from pipeline.errors import SprigError
from pipeline.layout import near
from pipeline.models import checkpoint
from pipeline.models.export import folder, gguf
from pipeline.models.tokenizer import read_json
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
    refuse_inside("export.to", to, context.store.root)
    if not (to.exists() and _is_there(context, graph.build(context))):
        folder.refuse_existing(to)
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


def _is_there(context: Context, steps: Steps) -> bool:
    to, kind = _target(context.config), context.config.export.gguf
    whole = kind == GGUFKind.none or (to / gguf.file_name(to.name, kind)).is_file()
    return whole and folder.holds(to, _mark(context, steps))


def _check_card(to: Path, described: Callable[[ExportForm, dict], str]) -> None:
    """Raises SprigError where the card is not what it would be now: of the run before it was finished, say."""
    written = read_json(to / "config.json")
    cards = [described(form, written) for form in ExportForm if form != ExportForm.auto]
    if (to / "README.md").read_text(encoding="utf-8") not in cards:
        raise SprigError(
            f"export.to={to} holds this student with a card that is out of date, as of a run that was not finished: "
            "remove it to export again, or name another folder."
        )


def run(context: Context, steps: Steps) -> None:
    """Writes, checks and publishes the export of the run's student; see pipeline.models.export.folder.

    Raises:
        SprigError: the run has no finished student, or teacher.litgpt names another family than the student's; this
            export is there with another card; or as folder.export.
    """
    from pipeline.on_request.card import card  # with matplotlib, which other commands do without

    config, to = context.config, _target(context.config)
    trained, summary = distill.trained(context, steps["distilled_student"]), material.summary_of(context, steps)
    sub = SubNetwork.from_dict(json.loads((trained / checkpoint.SUBNETWORK).read_text(encoding="utf-8")))

    def described(form: ExportForm, written: dict) -> str:
        return card(to.name, form, written, config.export, summary, sub, config.teacher, trained)

    if _is_there(context, steps):
        _check_card(to, described)
        log.info("%s holds this export already; to export again, remove it first", near(to))
        return
    student = checkpoint.load(trained, "cpu")
    folder.refuse_other(student, context.architecture, ("family",))
    blocks = context.evenly(
        steps["tokens"].recipe, "validation", min(BLOCKS, config.evaluate.blocks), "evaluate.blocks"
    )
    published = folder.export(
        student,
        trained,
        to,
        config.export.form,
        blocks[:, :-1],
        described,
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
