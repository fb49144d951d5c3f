"""report.html: the report as one self-contained page, which needs no network."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.artifacts import read_manifest
from pipeline.artifacts.inventory import in_words
from pipeline.report import again, canvas, marks, plots, sentences, tables
from pipeline.report.canvas import Plot
from pipeline.report.material import Material
from pipeline.report.schema import RUNNING, random_weights

PAGE = "report.html"


def page(material: Material, folder: Path) -> str:
    """The page of a run's folder, in which its figures lie. Links are relative to it; the same run gives the same
    bytes."""
    summary = material.summary
    return render(
        "report.html.jinja",
        title=folder.parent.name,
        caution=summary["status"] == RUNNING or random_weights(summary),
        headline=sentences.headline(summary),
        detail=sentences.result(summary),
        tiles=sentences.tiles(summary),
        first=("", tables.HEADER, tables.rows(summary), tables.note(summary)),
        tables=tables.further(summary),
        plots=[drawn(plot, folder) for plot in plots.of(material)],
        notes={} if summary["anatomy"] is None else {plots.ANATOMY: tables.anatomy_sentence(summary["anatomy"])},
        facts=tables.facts(summary),
        evaluation=material.evaluation,
        artifacts=[_artifact(role, path) for role, path in material.done.items()],
        commands=again.commands(folder),
        config=(folder / ".hydra/config.yaml").read_text(encoding="utf-8"),
    )


def render(template: str, **values: object) -> str:
    """A page on the base that all share."""
    return _TEMPLATES.get_template(template).render(**values)


def drawn(plot: Plot, folder: Path) -> dict[str, str]:
    """A figure for the templates, from its file."""
    svg = canvas.inline((folder / plot.file).read_text(encoding="utf-8"))
    return {"name": plot.name, "title": plot.title, "svg": Markup(svg)}


def _cell(text: str) -> str:
    """A cell, marked up as its type says."""
    form = {marks.Bold: "<b>{}</b>", marks.Code: "<code>{}</code>", marks.Link: '<a href="{0}">{0}</a>'}.get(type(text))
    return Markup(form).format(str(text)) if form else text


def _artifact(role: str, folder: Path) -> dict[str, str]:
    manifest = read_manifest(folder)
    size = sum(file["bytes"] for file in manifest["files"].values())
    return {"role": role, "made": f"{manifest['stage']}/{manifest['fingerprint']}", "size": in_words(size)}


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters["marked"] = _cell
