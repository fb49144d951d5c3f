"""The run: prepare -> order -> search -> extract -> distill -> evaluate -> report, each made once and found again."""

import json
import logging
import os
import shutil
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pipeline.artifacts import MANIFEST, write_atomically
from pipeline.config import Config, to_plain
from pipeline.ranks import rank
from pipeline.stages import distill, page, plan, report, search
from pipeline.stages.context import Context, Step
from pipeline.stages.tracker import Tracker
from pipeline.training.metrics import METRICS

log = logging.getLogger("sprig")


def run(config: Config, overrides: list[str] | None = None) -> dict | None:
    """Runs the configured stages; what is already made is found, not made again.

    Returns:
        The summary; None where the report is not among the stages, or with plan=true.

    Raises:
        SprigError: the configuration does not fit, or an input is missing or damaged; finished artifacts stay.
    """
    tracker = Tracker()
    context = Context(config, tracker.log)
    plan.check(context)
    if config.plan:
        if rank() == 0:
            _show("What this run would do", ["", ""], plan.table(context))
        return None
    last = report.step(context)
    folder = _run_folder(context, last)
    handler = _open(folder, config, overrides or [])
    tracker.start(config, folder)
    try:
        for step in [*report.inputs(context), last]:
            if step.stage in config.stages:
                _make(context, step, folder)
        summary = _close(context, last, folder) if last.stage in config.stages else None
        tracker.finish(summary)
    finally:
        log.removeHandler(handler)
        handler.close()
    return summary


def _make(context: Context, step: Step, folder: Path) -> None:
    found = context.store.find(step.recipe)
    log.info("%s %s (%s): %s", step.stage, step.role, step.recipe.fingerprint, "is there" if found else "begins")
    artifact = context.store.obtain(step.recipe, step.make, step.agree)
    if rank() == 0:
        _link(folder / "artifacts" / step.role, artifact)
        _collect_metrics(context, folder)


def _link(link: Path, target: Path) -> None:
    """Points a symbolic link at target, relative to where it lies, in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)


def _run_folder(context: Context, last: Step) -> Path:
    """`<outputs>/<name>/<id>`: the id is a hash of all that determines the result, so the same command finds it."""
    config = context.config
    return Path(config.outputs) / (config.run_name or config.preset) / last.recipe.fingerprint[:8]


def _open(folder: Path, config: Config, overrides: list[str]) -> logging.Handler:
    """Makes the run's folder, with its configuration, its log and the link `latest`; the log's handler."""
    if rank() != 0:
        return logging.NullHandler()
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(to_plain(config))))
    write_atomically(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))
    _link(folder.parent / "latest", folder)
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.info("run folder %s", folder)
    return handler


def _collect_metrics(context: Context, folder: Path) -> None:
    """metrics.jsonl of the run: every evaluation of the search, then every step of each model, from the artifacts."""
    lines = []
    for step in report.inputs(context):
        if step.stage not in (search.STAGE, distill.STAGE) or (artifact := context.store.find(step.recipe)) is None:
            continue
        name = search.JOURNAL if step.stage == search.STAGE else METRICS
        for line in (artifact / name).read_text(encoding="utf-8").splitlines():
            values = {key: value for key, value in json.loads(line).items() if key not in ("subnetwork", "search")}
            if values:
                lines.append(json.dumps({"role": step.role} | values))
    write_atomically(folder / METRICS, "".join(f"{line}\n" for line in lines))


def _close(context: Context, last: Step, folder: Path) -> dict:
    """Copies the report into the run's folder, where people look for it, and shows the closing table."""
    artifact = context.made(last.recipe)
    summary = json.loads((artifact / report.SUMMARY).read_text(encoding="utf-8"))
    if rank() == 0:
        for path in artifact.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, folder / path.name)
        _show(summary["preset"], page.HEADER, page.rows(summary))
        log.info("%s", page.saving_sentence(summary["saving"]))
        log.info("The report is %s", folder / report.PAGE)
    return summary


def _show(title: str, header: list[str], rows: list) -> None:
    table = Table(*header, title=title, show_header=any(header))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
