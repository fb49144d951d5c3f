"""The run: prepare -> order -> search -> extract -> distill -> evaluate -> report, each made once and found again.

Rerank and study are part of it where they are asked for. Export, sample and score run on request, after them.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from pipeline import preemption
from pipeline.artifacts import MANIFEST, link_atomically, sweep_temporaries, write_atomically
from pipeline.config import LATEST, Config, to_plain
from pipeline.on_request import export, sample, score
from pipeline.ranks import rank
from pipeline.report import material
from pipeline.report.material import Material
from pipeline.report.tracker import Tracker
from pipeline.stages import cache, distill, downstream, graph, plan, rerank, search, study
from pipeline.stages.context import Context, Step, Steps
from pipeline.stages.roots import roots
from pipeline.training.metrics import METRICS

log = logging.getLogger("sprig")


@preemption.preemptible()
def run(config: Config, overrides: list[str] | None = None) -> dict | None:
    """Runs the configured stages; what is already made is found, not made again.

    Returns:
        The summary; None where the report is not among the stages, or with plan=true.

    Raises:
        SprigError: the configuration does not fit, or an input is missing or damaged; finished artifacts stay.
        Interrupted: SIGTERM or SIGUSR1 came (see pipeline.preemption); the same call goes on from there.
    """
    tracker = Tracker()
    context = Context(config, tracker.log)
    plan.check(context)
    if export.STAGE in config.stages:
        export.check(context)
    if config.plan:
        if rank() == 0:
            _show("What this run would do", ["", ""], plan.table(context))
        return None
    steps = graph.build(context)
    downstream.check(context, steps)
    last = material.step(context, steps)
    folder = run_folder(context, last)
    handler = _open(folder, config, overrides or [])
    _claim(context, [*steps.values(), last], folder)
    shown = None
    try:
        tracker.start(config, folder)
        for step in steps.values():
            if step.stage in config.stages:
                _make(context, step, steps, folder, tracker)
                _collect_metrics(context, steps, folder)
                preemption.check()
        if cache.STAGE in config.stages and config.distill.cached:
            cache.complete(context, roots(context))
        if last.stage in config.stages:
            if all(context.store.find(step.recipe) for step in steps.values()):
                _make(context, last, steps, folder, tracker)
            shown = _close(context, steps, last, folder)
            tracker.report(shown, folder)
        for stage in (export, sample, score):
            if stage.STAGE in config.stages and rank() == 0:
                stage.run(context, steps)
    finally:
        tracker.finish()
        log.removeHandler(handler)
        handler.close()
    return shown.summary if shown else None


def _make(context: Context, step: Step, steps: Steps, folder: Path, tracker: Tracker) -> None:
    found = context.store.find(step.recipe)
    log.info("%s %s (%s): %s", step.stage, step.role, step.recipe.fingerprint, "is there" if found else "begins")
    context.store.obtain(step.recipe, step.make, step.agree)
    if step.role == "tokens":
        plan.check_prepared(context, roots(context))
    if step.role == "search":
        study.check_searched(context, step.recipe)
    if rank() == 0 and found:
        tracker.found(step.role, _metrics(context, step))


def _claim(context: Context, steps: Iterable[Step], folder: Path) -> None:
    """Claims every artifact that this command will make or can find, before it makes or finds one: until a step has
    its manifest, nothing else tells what this run needs."""
    if rank() != 0:
        return
    config, kept, store, wanted = context.config, context.config.distill.cache, context.store, {}
    scored = score.STAGE in config.stages
    for step in steps:
        asked = step.stage in config.stages or (scored and step.role.startswith(downstream.ROLE))
        if asked or store.path(step.recipe).exists():
            wanted[step.role] = store.path(step.recipe)
        if asked and step.phase is not None:
            wanted[f"{step.role}_stable"] = store.path(step.phase)
    if config.distill.cached and not kept.path and {cache.STAGE, distill.STAGE} & set(config.stages):
        wanted["cache"] = store.path(cache.recipe(context, roots(context)))
    store.claim(folder, wanted)


def run_folder(context: Context, last: Step) -> Path:
    """`<outputs>/<name>/<id>`: the id is a hash of all that determines the result, so the same command finds it."""
    config = context.config
    return Path(config.outputs) / (config.run_name or config.preset) / last.recipe.fingerprint[:8]


def _open(folder: Path, config: Config, overrides: list[str]) -> logging.Handler:
    """Makes the run's folder, with its configuration, its log and the link `latest`; the log's handler."""
    if rank() != 0:
        return logging.NullHandler()
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, content in (("config", to_plain(config)), ("overrides", overrides)):
        if not (path := folder / ".hydra" / f"{name}.yaml").exists():  # a later command must not change whose run it is
            write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(content)))
    if config.run is None or not folder.samefile(config.run):  # one that is reopened is no newer for it
        link_atomically(folder.parent / LATEST, folder)
    for place in (folder.parent, folder, folder / ".hydra"):
        sweep_temporaries(place)
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.info("run folder %s", folder)
    return handler


def _metrics(context: Context, step: Step) -> list[dict]:
    """A step's evaluations, or its steps of training; empty where it has none."""
    names = {search.STAGE: search.JOURNAL, rerank.STAGE: rerank.JOURNAL, distill.STAGE: METRICS}
    name = names.get(step.stage)
    artifact = context.store.find(step.recipe)
    if name is None or artifact is None:
        return []
    lines = map(json.loads, (artifact / name).read_text(encoding="utf-8").splitlines())
    # The journal's first line names the search; sub-networks and losses are long.
    return [
        {"role": step.role} | {key: value for key, value in line.items() if key not in ("subnetwork", "losses")}
        for line in lines
        if "search" not in line
    ]


def _collect_metrics(context: Context, steps: Steps, folder: Path) -> None:
    """metrics.jsonl of the run: every evaluation of the search, then every step of each model, from the artifacts."""
    if rank() != 0:
        return
    lines = [json.dumps(line) for step in steps.values() for line in _metrics(context, step)]
    write_atomically(folder / METRICS, "".join(f"{line}\n" for line in lines))


def _close(context: Context, steps: Steps, last: Step, folder: Path) -> Material:
    """Puts the report into the run's folder, where people look for it, and shows the closing table."""
    from pipeline.report import html, pages, sentences, tables  # with matplotlib, which a plan does without

    shown = material.gather(context, steps)
    summary = shown.summary
    if rank() == 0:
        context.store.claim(folder, shown.done)  # by other commands too: the page leads there
        if artifact := context.store.find(last.recipe):
            for path in artifact.iterdir():
                if path.name != MANIFEST:
                    shutil.copyfile(path, folder / path.name)
        else:
            material.write(shown, folder)
        pages.write(shown, folder)
        _show(folder.parent.name, tables.HEADER, tables.rows(summary))
        log.info("%s", sentences.result(summary))
        log.info("The report is %s and %s", folder / material.PAGE, html.PAGE)
    return shown


def _show(title: str, header: list[str], rows: list) -> None:
    table = Table(*header, title=title, show_header=any(header))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
