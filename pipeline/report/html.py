"""report.html: the report as one self-contained page, which needs no network."""

import re
import shlex
from pathlib import Path

import plotly.graph_objects as go
import plotly.offline
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.artifacts import read_manifest, write_atomically
from pipeline.composition import OF_ONE_COMMAND
from pipeline.report import figures, markdown
from pipeline.report import study as study_report
from pipeline.report.material import Material
from pipeline.report.summary import RUNNING
from pipeline.subnetwork.architecture import Architecture
from pipeline.subnetwork.value import LayerGenes, SubNetwork

PAGE = "report.html"
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def write(material: Material, teacher: Architecture, folder: Path) -> None:
    """The page of a run's folder. Its links are relative to that folder; the same run gives the same bytes."""
    write_atomically(folder / PAGE, render(material, teacher, folder))


def render(material: Material, teacher: Architecture, folder: Path) -> str:
    summary, hydra = material.summary, folder / ".hydra"
    overrides = yaml.safe_load((hydra / "overrides.yaml").read_text(encoding="utf-8"))
    return render_page(
        "report.html.jinja",
        title=summary["preset"],
        running=summary["status"] == RUNNING,
        headline=headline(summary),
        detail=markdown.result_sentence(summary),
        tiles=tiles(summary),
        first=("", markdown.HEADER, markdown.rows(summary), markdown.NOTE.format(summary["data"]["validation_blocks"])),
        tables=markdown.tables(summary),
        plots=[(title, embed(figure, f"plot-{at}")) for at, (title, figure) in enumerate(_plots(material))],
        anatomy=_anatomy(teacher, material.subnetwork) if material.subnetwork else None,
        facts=markdown.facts(summary),
        evaluation=material.evaluation,
        artifacts=[_artifact(role, path) for role, path in material.done.items()],
        commands=commands(overrides, folder),
        config=(hydra / "config.yaml").read_text(encoding="utf-8"),
    )


def render_page(template: str, **values: object) -> str:
    """A page on the base that all share; the plotting library is inside it, once."""
    return TEMPLATES.get_template(template).render(**values, plotly=Markup(plotly.offline.get_plotlyjs()))


def commands(overrides: list[str], folder: Path) -> list[str]:
    """What makes the run again, elsewhere and here. The command that began it may have been for a part of it."""
    whole = [each for each in overrides if re.split("[.=]", each)[0] not in OF_ONE_COMMAND]
    given = [whole] if whole else []  # a run from Python has none
    return [shlex.join(["sprig", *each]) for each in (*given, [f"run={folder}"])]


def headline(summary: dict) -> str:
    """The result in one sentence with its numbers; of a run that is still going, what it is to make."""
    teacher, student, control = summary["teacher"], summary["student"], summary["control"]
    if student["final_perplexity"] is None:
        return f"A student cut out of {teacher['name']}, to be trained and measured."
    others = f"its teacher, {teacher['name']}, at {teacher['perplexity']:,.2f}"
    if control is not None:
        start = control["init"].replace("_", " ")
        others = f"the control ({start}) stands at {control['final_perplexity']:,.2f}, {others}"
    share = student["parameters"] / teacher["parameters"]
    return (
        f"A student of {student['parameters']:,} parameters, {share:.0%} of its teacher's, reaches a validation "
        f"perplexity of {student['final_perplexity']:,.2f} after {student['tokens']:,} training tokens; {others}."
    )


def tiles(summary: dict) -> list[tuple[str, str]]:
    """The numbers that people look for first, each with what it is."""
    student, saving = summary["student"], summary["saving"]
    shown = []
    if student["final_perplexity"] is not None:
        shown.append((f"{student['final_perplexity']:,.2f}", "perplexity of the student"))
    if student["parameters"] is not None:
        size = student["parameters"]
        shown.append((f"{size / 1e6:,.1f}M" if size >= 1e6 else f"{size:,}", "parameters of the student"))
    if saving is not None:
        bound = "<\u2009" if saving["reached"] == "not reached" else ""
        for key, what in (("tokens", "fewer tokens than the control"), ("total_flops", "fewer FLOPs, search included")):
            if saving[key] is not None:
                shown.append((f"{bound}{saving[key]:.2f}\u00d7", what))
    return shown


def _plots(material: Material) -> list[tuple[str, go.Figure]]:
    plots = []
    measure = material.summary["search"]["fitness"]
    if material.curves:
        plots.append(("Distillation", figures.training(material.curves, material.summary["teacher"]["perplexity"])))
    if figures.finite(material.evaluated.get("search", [])):
        plots.append(("Search", figures.search(material.evaluated, measure)))
        drawn = figures.candidates(material.candidates["search"], material.summary["bin"], measure, material.winner)
        plots.append(("Candidates in the bin", drawn))
    if "study" in material.summary:
        plots.append((study_report.TITLE, study_report.figure(material.summary["study"])))
    return plots


def _anatomy(teacher: Architecture, sub: SubNetwork) -> tuple[str, Markup]:
    whole = LayerGenes(teacher.n_query_groups, teacher.heads_per_group, teacher.head_size, teacher.intermediate_size)
    return anatomy(whole, teacher.n_layer, teacher.n_embd, sub)


def anatomy(whole: LayerGenes, n_layer: int, n_embd: int, sub: SubNetwork) -> tuple[str, Markup]:
    """What a student keeps of a teacher of these sizes, in a sentence and drawn."""
    kept = f"{sub.n_layer} of {n_layer} layers at width {sub.n_embd} of {n_embd}"
    return f"The student keeps {kept}.", embed(figures.anatomy(whole, n_layer, sub), "anatomy")


def embed(figure: go.Figure, name: str) -> Markup:
    config = {"displayModeBar": False, "responsive": True}
    return Markup(figure.to_html(config=config, include_plotlyjs=False, full_html=False, div_id=name))


def _artifact(role: str, folder: Path) -> dict:
    manifest = read_manifest(folder)
    size = sum(file["bytes"] for file in manifest["files"].values())
    return {"role": role, "made": f"{manifest['stage']}/{manifest['fingerprint']}", "size": f"{size / 1e6:,.1f} MB"}
