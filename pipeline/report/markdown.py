"""report.md: the report as text."""

from pathlib import Path

from pipeline.report import again, marks, plots, sentences, tables
from pipeline.report.material import Material
from pipeline.report.schema import Evaluation


def page(material: Material, folder: Path) -> str:
    """The page of a run's folder, in which its figures lie."""
    summary = material.summary
    parts = [
        f"# {marks.escaped(folder.parent.name)}",
        marks.escaped(sentences.headline(summary)),
        marks.escaped(sentences.result(summary)),
        marks.table(tables.HEADER, tables.rows(summary)),
        tables.note(summary),
    ]
    if material.evaluation is not None:
        parts += samples(material.evaluation)
    for plot in plots.of(material):
        parts += [f"## {plot.title}", f"![{plot.says}]({plot.file})"]
        if plot.name == plots.ANATOMY and summary["anatomy"] is not None:
            parts += [
                tables.anatomy_sentence(summary["anatomy"]),
                marks.table(tables.anatomy_header(summary["anatomy"]), tables.anatomy_rows(summary["anatomy"])),
            ]
    for title, header, body, note in tables.further(summary):
        parts += [f"## {title}", marks.table(header, body), marks.escaped(note)]
    parts += ["## Setup", marks.table(["", ""], tables.facts(summary))]
    parts += ["## Run it again", marks.fenced("\n".join(again.commands(folder)))]
    return "\n\n".join(parts) + "\n"


def samples(evaluation: Evaluation, title: str = "One text, continued") -> list[str]:
    """The prompt, and what each model makes of it."""
    continued = [[name, model["sample"]] for name, model in evaluation["models"].items()]
    return [f"## {title}", marks.quoted(evaluation["prompt"]), marks.table(["model", "continuation"], continued)]
