"""The records of a sweep: what its report is made from, small enough to lie beside the report in results/.

    python -m benchmarks.records keep SWEEP FOLDER [--rename PATH=NAME] [--add]    SWEEP is outputs/sweeps/NAME
    python -m benchmarks.records remake FOLDER

`keep` packs the sweep's own file and, of every run, configuration, overrides, summary, validation curves, continued
text and what its tokens are into FOLDER/records.tar.xz. Both then make the report again from the records alone.
Paths below the working directory of the sweep become relative; others are named with --rename. With --add the runs
join those that are kept there of the same sweep, such as further seeds from another machine.
"""

import argparse
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.artifacts import MANIFEST
from pipeline.artifacts.files import write_json
from pipeline.artifacts.runs import SAVED
from pipeline.data.blocks import INDEX
from pipeline.layout import SUMMARY
from pipeline.report.sweep.record import NAME
from pipeline.report.sweep.report import CURVES, PAGE, RUNS, report
from pipeline.stages.evaluate import RESULT
from pipeline.training.metrics import METRICS

ARCHIVE = "records.tar.xz"
OF_A_RUN = (
    SAVED,
    ".hydra/overrides.yaml",
    SUMMARY,
    f"artifacts/evaluation/{RESULT}",
    f"artifacts/tokens/{INDEX}",
    f"artifacts/tokens/{MANIFEST}",
    f"artifacts/distilled_student/{METRICS}",
    f"artifacts/distilled_control/{METRICS}",
)
SHOWN = (PAGE, RUNS, CURVES, "*.svg")  # of a report; sweep.html leads into the runs' folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    keeping = actions.add_parser("keep")
    keeping.add_argument("sweep", type=Path, help="outputs/sweeps/NAME, whose runs lie in outputs/")
    keeping.add_argument("folder", type=Path)
    keeping.add_argument("--rename", metavar="PATH=NAME", action="append", default=[])
    keeping.add_argument("--add", action="store_true")
    actions.add_parser("remake").add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.action == "keep":
        keep(options.sweep, options.folder, dict(each.split("=") for each in options.rename), options.add)
    remake(options.folder)


def keep(sweep: Path, folder: Path, renamed: dict[str, str], add: bool = False) -> None:
    """The same records give the same bytes. `renamed`: paths, and what stands in their place. `add`: to what is kept in
    the folder, as if the sweep had been given again with further values."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place, tarfile.open(folder / f".{ARCHIVE}", "w:xz") as archive:
        records = _records(sweep.absolute(), renamed)
        if add:
            records = _records(_joined(unpack(folder, Path(place)), dict(records)), {})
        for name, text in records:
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (folder / f".{ARCHIVE}").replace(folder / ARCHIVE)


def _records(sweep: Path, renamed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Names below outputs/, and contents."""
    outputs, record = sweep.parents[1], (sweep / NAME).read_text(encoding="utf-8")
    folders = sorted({Path(os.path.normpath(sweep / job["folder"])) for job in json.loads(record)["jobs"]})
    files = [sweep / NAME, *(folder / name for folder in folders for name in OF_A_RUN)]
    paths = renamed | {str(outputs): "outputs", f"{outputs.parent}/": ""}
    for file in filter(Path.exists, files):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        if file.name == METRICS:
            lines = [line for line in lines if "validation_nll" in line]
        text = "".join(lines)
        for path, name in paths.items():
            text = text.replace(path, name)
        yield str(file.relative_to(outputs)), text


def _joined(sweep: Path, added: dict[str, str]) -> Path:
    """The unpacked sweep, with further records."""
    first = json.loads((sweep / NAME).read_text(encoding="utf-8"))
    for name, text in added.items():
        file = sweep.parents[1] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    second = json.loads((sweep / NAME).read_text(encoding="utf-8"))
    jobs = {job["id"]: job for job in (*first["jobs"], *second["jobs"])}
    axes = {key: list(dict.fromkeys([*first["axes"][key], *values])) for key, values in second["axes"].items()}
    write_json(sweep / NAME, second | {"axes": axes, "jobs": list(jobs.values())})
    return sweep


def remake(folder: Path) -> None:
    """Makes the report of the kept records again, in place of the one that lies there."""
    with TemporaryDirectory() as place:
        sweep = unpack(folder, Path(place))
        report(sweep, underway=False)
        for pattern in SHOWN:
            for old in folder.glob(pattern):
                old.unlink()
            for new in sweep.glob(pattern):
                shutil.copy(new, folder)


def unpack(folder: Path, into: Path) -> Path:
    """The sweep's folder, with its runs where they were relative to it."""
    with tarfile.open(folder / ARCHIVE) as archive:
        archive.extractall(into, filter="data")
    [record] = into.glob(f"sweeps/*/{NAME}")
    return record.parent


if __name__ == "__main__":
    main()
