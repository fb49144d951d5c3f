"""What people open in a run's folder: report.md and report.html, from the same tables, sentences and figures."""

from pathlib import Path

from pipeline.artifacts import write_atomically
from pipeline.report import html, markdown
from pipeline.report.material import PAGE, Material


def write(material: Material, folder: Path) -> None:
    """Both pages, into a run's folder that has its figures already."""
    write_atomically(folder / PAGE, markdown.page(material, folder))
    write_atomically(folder / html.PAGE, html.page(material, folder))
