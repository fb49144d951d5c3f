"""`sprig runs`: every run of a folder of outputs, the oldest first."""

from datetime import datetime

from pipeline.artifacts.inventory import STORE, Entry, bytes_of_copies, entries, in_words
from pipeline.artifacts.runs import OUTPUTS
from pipeline.commands import Line
from pipeline.commands.folders import Known, all_runs
from pipeline.progress import short
from pipeline.terminal import say

RANDOM = "*"


def run(line: Line) -> None:
    """Prints a line for each run. `disk` is what only that run needs, so what its removal frees.

    Raises:
        SprigError: see `all_runs` and pipeline.artifacts.inventory.entries.
    """
    outputs = line.outputs or OUTPUTS
    runs = all_runs(outputs)
    stored = entries(outputs, [each.folder for each in runs])
    say(_row("started", "status", "parameters", "perplexity", "disk", "run"))
    for each in runs:
        say(_row(*_cells(each, stored)))
    if any(map(_counts_for_nothing, runs)):
        say(f"{RANDOM} of a teacher with random weights: the numbers mean nothing")
    shared = sum(entry.bytes for entry in stored if len(entry.needed_by) > 1)
    say(f"{len(runs)} in all; {in_words(shared)} of {outputs / STORE} are needed by several")


def only_of(names: set[str], stored: list[Entry]) -> list[Entry]:
    """The artifacts that these runs need and no others do."""
    return [entry for entry in stored if entry.needed_by and names.issuperset(entry.needed_by)]


def _cells(run: Known, stored: list[Entry]) -> list[str]:
    parameters, perplexity = run.number("student", "parameters"), run.number("student", "final_perplexity")
    mark = RANDOM if _counts_for_nothing(run) else ""
    return [
        f"{datetime.fromtimestamp(run.started):%Y-%m-%d %H:%M}",
        run.status,
        "" if parameters is None else short(round(parameters)),
        "" if perplexity is None else f"{perplexity:,.2f}{mark}",
        in_words(sum(entry.bytes for entry in only_of({run.name}, stored)) + bytes_of_copies(run.folder)),
        run.name,
    ]


def _counts_for_nothing(run: Known) -> bool:
    return run.random_weights and run.number("student", "final_perplexity") is not None


def _row(*cells: str) -> str:
    """The name last, so that a narrow terminal breaks no other column."""
    started, status, parameters, perplexity, disk, name = cells
    return f"{started:16}  {status:8}  {parameters:>10}  {perplexity:>10}  {disk:>9}  {name}".rstrip()
