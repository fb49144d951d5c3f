"""Imports go down the floors of the package and launchers alone, and the lower ones start without torch."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pipeline

# From the ground up; the parts of one floor do not import one another.
FLOORS = [
    {"printable"},
    {"errors", "hardware", "layout", "outside", "terminal"},
    {"ranks", "quick_imports", "recorded", "streams", "places"},
    {"config", "peers", "preemption", "progress"},
    {"artifacts", "subnetwork"},
    {"command_line", "models"},
    {"data", "api_inputs", "api_settings"},
    {"search", "training", "evaluation"},
    {"stages"},
    {"plan"},
    {"report"},
    {"on_request"},
    {"run_folder"},
    {"runner", "api", "commands"},
    {"__init__"},
    {"cli"},
    {"__main__"},
    {"launchers"},
]
UPWARDS = ["pipeline/cli.py imports launchers"]  # late, in the branch that starts a sweep
ROOT = Path(pipeline.__file__).parent


def imported(file: Path) -> Iterator[str]:
    """The parts of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "launchers":
            yield "launchers"
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pipeline":
            names = [f"pipeline.{each.name}" for each in node.names] if node.module == "pipeline" else [node.module]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names if each.name.partition(".")[0] == "pipeline"]
        else:
            continue
        for name in names:
            part = name.split(".")[1] if "." in name else "__init__"
            yield part if (ROOT / part).exists() or (ROOT / f"{part}.py").exists() else "__init__"


def test_imports_go_down():
    floor_of = {part: number for number, floor in enumerate(FLOORS) for part in floor}
    seen, upwards = set(), []
    for file in [*ROOT.rglob("*.py"), *(ROOT.parent / "launchers").rglob("*.py")]:
        place = file.relative_to(ROOT.parent)
        part = "launchers" if place.parts[0] == "launchers" else place.with_suffix("").parts[1]
        seen.add(part)
        upwards += [
            f"{place} imports {other}"
            for other in imported(file)
            if other != part and floor_of[other] >= floor_of[part]
        ]
    assert upwards == UPWARDS
    assert seen == floor_of.keys()
