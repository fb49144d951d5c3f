"""Names in a folder of outputs that every floor knows, and how a place is shown."""

from pathlib import Path

LATEST = "latest"  # the link to the newest run folder
SWEEPS = "sweeps"  # the folder of all sweeps
SUMMARY = "summary.json"  # a run's results
LOG = "run.log"  # its lines begin with date, time and level; of a run that failed, the last one is an ERROR
COMPLETED = "completed"  # its status there


def near(place: Path) -> Path:
    """As it is written from the working directory, if it lies below."""
    place, here = place.absolute(), Path.cwd()
    return place.relative_to(here) if place.is_relative_to(here) else place
