"""`sprig describe RUN`: what a student, or a subnetwork.json, keeps of its teacher."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pipeline import outside
from pipeline.artifacts import LINKS
from pipeline.artifacts.runs import OUTPUTS, run_folder
from pipeline.commands import Line
from pipeline.config.paths import expanded
from pipeline.errors import SprigError
from pipeline.subnetwork.about import About
from pipeline.subnetwork.value import ABOUT, SIZES, LayerGenes, SubNetwork
from pipeline.terminal import say

FILE = "subnetwork.json"
STUDENT = "distilled_student"
NAME_WIDTH = 16
_CURE = f"name another {FILE}, or a run"


def run(line: Line) -> None:
    """Prints it.

    Raises:
        SprigError: what is named is not a sub-network's file, a student's folder or a run with a finished student.
    """
    file = _file(line.names[0], line.outputs or OUTPUTS)
    try:
        content = outside.read_json(file)
    except ValueError as error:
        raise SprigError(f"{file} {error}: {_CURE}.") from None
    try:
        sub = SubNetwork.from_dict(content)
    except SprigError as error:
        raise SprigError(f"{file}: {error}") from None
    noted = content.get(ABOUT)
    if noted is not None and (wrong := outside.misfit(noted, About, ABOUT)):
        raise SprigError(f"{file} has no {wrong} as Sprig writes it: {_CURE}.")
    for name, value in _rows(sub, noted):
        say(f"{name:{NAME_WIDTH}}{value}")


def _file(name: str, outputs: Path) -> Path:
    given = expanded(name)
    for file in (given, given / FILE):
        if file.is_file():
            return file
    if (given / "config.json").is_file():
        raise SprigError(
            f"{name} is a transformers folder, which has no {FILE}: describe the run that it was exported from, or "
            "see the README.md of the export."
        )
    if (file := run_folder(name, outputs) / LINKS / STUDENT / FILE).is_file():
        return file
    raise SprigError(f"{name} has no finished student: give the run's command again, then describe it.")


def _rows(sub: SubNetwork, noted: About | None) -> Iterator[tuple[str, str]]:
    whole = noted["teacher_sizes"] if noted else {}
    if noted:
        share = noted["parameters"] / max(1, noted["teacher_parameters"])
        yield "teacher", f"{noted['teacher']}, {noted['teacher_parameters']:,} parameters"
        yield "parameters", f"{noted['parameters']:,}, {share:.0%} of the teacher's"
        if (tokens := noted.get("vocabulary")) is not None:
            yield "vocabulary", f"{_of(tokens['kept'], tokens['teacher'])} tokens"
        fitness = noted["fitness"]
        yield "fitness", f"{fitness['measure']} {fitness['value']:.4f}" if fitness else "drawn at random, not searched"
    else:
        yield "teacher", "not named: the file was written by an earlier version of Sprig"
    yield "layers", f"{_of(sub.n_layer, whole.get('n_layer'))}: {_ranges(sub.layers)}"
    yield "width", _of(sub.n_embd, whole.get("n_embd"))
    for layers, genes in _alike(sub):
        yield "" if sub.uniform else _ranges(layers), _sizes(genes, whole)
    yield "entries kept", "a drawn subset of the teacher's" if sub.index_seed is not None else "the first of its order"
    yield "ordering", sub.ordering
    yield "head pairs", f"{sub.head_pairs}, attention scale of the {sub.attention_scale}"


def _alike(sub: SubNetwork) -> Iterator[tuple[list[int], LayerGenes]]:
    """Neighbouring layers of the same sizes."""
    pairs = zip(sub.layers, sub.genes, strict=True)
    for _, group in groupby(pairs, key=lambda pair: [getattr(pair[1], name) for name in SIZES]):
        same = list(group)
        yield [layer for layer, _ in same], same[0][1]


def _sizes(genes: LayerGenes, whole: dict[str, int]) -> str:
    sizes = {
        title: (size, whole.get(name)) for name, title in SIZES.items() if (size := getattr(genes, name)) is not None
    }
    return ", ".join(f"{title} {_of(*size)}" for title, size in sizes.items())


def _of(size: int, whole: int | None) -> str:
    return f"{size:,}" if whole is None else f"{size:,} of {whole:,}"


def _ranges(numbers: tuple[int, ...] | list[int]) -> str:
    """For example 0-3, 7."""
    runs = [[each for _, each in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
