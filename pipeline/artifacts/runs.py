"""Finding the folder of a run, and its summary."""

from pathlib import Path
from typing import Any

from pipeline import outside
from pipeline.artifacts.files import file_sha256
from pipeline.artifacts.manifest import MANIFEST, read_manifest
from pipeline.artifacts.store import LINKS, is_artifact, is_store
from pipeline.config.paths import expanded
from pipeline.errors import SprigError
from pipeline.layout import LATEST, SUMMARY

SAVED = Path(".hydra/config.yaml")  # of a run's folder
OUTPUTS = Path("outputs")
REPORT = "report"  # the role of a run's report


def run_folder(name: str, outputs: Path = OUTPUTS, key: str = "") -> Path:
    """A run by its folder, or by its name in `outputs` as `sprig runs` shows it. `key` is what was given it with.

    Raises:
        SprigError: there is no such run.
    """
    places = list(dict.fromkeys((expanded(name), outputs / name)))
    for folder in places:
        if is_run(folder):
            return folder
        if is_run(folder / LATEST):
            raise SprigError(f"{key}{name} holds several runs: name one, such as {key}{folder / LATEST}.")
    raise SprigError(
        f"{key}{name} is not a run: give its folder, or its name as `sprig runs` shows it; there is no run at "
        f"{' or '.join(str(each.absolute()) for each in places)}."
    )


def summary(folder: Path) -> dict[str, Any]:
    """A run's summary.json; empty before the first report, and where the file is damaged or is not that of the run's
    report in the store, so that the run counts as not finished and its command writes the file again."""
    report = folder / LINKS / REPORT
    try:
        found = outside.read_json(folder / SUMMARY)
        if (report / MANIFEST).exists():
            published = read_manifest(report)["files"][SUMMARY]["sha256"]
            found = found if file_sha256(folder / SUMMARY) == published else {}
    except (FileNotFoundError, ValueError, LookupError, SprigError):
        return {}
    return found if isinstance(found, dict) else {}


def is_run(folder: Path) -> bool:
    """Whether it has a run's configuration and its folder of links."""
    return (folder / SAVED).exists() and (folder / LINKS).is_dir()


def refuse_inside(key: str, place: Path, store: Path | None = None) -> None:
    """Raises SprigError for a place in the `store`, in another store, in an artifact, which another file would damage,
    or in a run's folder, which is removed with all that lies in it. `key` is what it was given with."""
    root, place = store.resolve() if store else None, place.absolute()
    for each in (place.resolve(), *place.resolve().parents):
        if each == root or is_store(each) or is_artifact(each):
            raise SprigError(f"{key}={place} lies in {each}, which is for artifacts alone: name a folder outside it.")
        if is_run(each) and (each.parent.parent / LINKS).is_dir():  # any project of Hydra's may look like a run
            raise SprigError(
                f"{key}={place} lies in {each}, a run that `sprig rm` removes with all that lies in it: name a folder "
                "outside it."
            )
