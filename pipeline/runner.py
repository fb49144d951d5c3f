"""The run: prepare, order, search, extract, recover, distill, evaluate, report; each is made once and then reused.

Reconstruct, rerank and study run only if something needs them. Export, sample, score and chat run on request.
"""

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from pipeline import preemption, run_folder
from pipeline.artifacts import MANIFEST, copy_atomically, write_atomically
from pipeline.command_line.overrides import key_of
from pipeline.config import Config, unread
from pipeline.errors import Interrupted
from pipeline.layout import COMPLETED, near
from pipeline.models.precision import repeatable
from pipeline.on_request import chat, export, sample, score
from pipeline.plan import after, checks, outlook
from pipeline.plan.outlook import Outlook
from pipeline.plan.table import table
from pipeline.progress import Progress, counted
from pipeline.ranks import rank, world_size
from pipeline.report import ending, material
from pipeline.report.material import Material
from pipeline.report.schema import Summary, random_weights
from pipeline.report.tracker import Tracker
from pipeline.run_folder import RunFolder
from pipeline.search.journal import SUM
from pipeline.stages import cache, distill, downstream, graph, prepare, rerank, search, study
from pipeline.stages.context import Context, Step, Steps
from pipeline.stages.roots import roots
from pipeline.terminal import show, show_commands, show_lines
from pipeline.training.metrics import METRICS

ON_REQUEST = (export, sample, score, chat)  # in the order in which they run

log = logging.getLogger("sprig")


@preemption.preemptible()
@torch.inference_mode(False)  # gradients, even under no_grad
def run(config: Config, overrides: list[str] | None = None) -> Summary | None:
    """Runs the configured stages; what is already made is found, not made again.

    Returns:
        The summary; None where the report is not among the stages, or with plan=true.

    Raises:
        SprigError: the configuration does not fit, or an input is missing or damaged; finished artifacts stay.
        Interrupted: SIGTERM or SIGUSR1 came (see pipeline.preemption); the same call resumes from there.
        OSError: a file cannot be read or written, with its name, or that of the outputs if it is not known.
    """
    with repeatable(config.deterministic):
        try:
            return _run(config, overrides)
        except OSError as error:
            if error.errno is not None and error.filename is None:  # of a write to a file that was open
                error.filename = config.outputs
            raise


def _run(config: Config, overrides: list[str] | None) -> Summary | None:
    tracker = Tracker()
    context = Context(config, tracker.log)
    if not run_folder.reads_only(config):
        checks.check(context)
    if export.STAGE in config.stages:
        export.check(context)
    for sentence in unread(config, overrides or []):
        log.warning(sentence)
    if config.plan:
        run_folder.refuse_copy(context)
        if rank() == 0:
            show(["", ""], table(context), "What this run would do")
            show_commands(after.commands(config, overrides or []))
        return None
    steps = graph.build(context)
    downstream.check(context, steps)
    graph.check_made(context, steps, _read_on_request(context))
    last = material.step(context, steps)
    if "stages" in map(key_of, overrides or []):
        _warn_of_idle_stages(context, [*steps.values(), last])
    opened = run_folder.open_folder(context, steps, last, overrides or [])
    folder, shown = opened.path, None
    try:
        if opened.writable:
            _claim(context, [*steps.values(), last], folder)
            tracker.start(config, folder)
        wanted = [step for step in (*steps.values(), last) if step.stage in config.stages]
        prepared = max(1, sum(step.stage == prepare.STAGE for step in wanted))
        left = _announce(context, wanted)
        for number, step in enumerate(wanted, start=1):
            if step is not last:
                _make(context, step, steps, folder, tracker, f"{number}/{len(wanted)}", left)
                _collect_metrics(context, steps, opened)
            if number == prepared:
                opened.name_latest()
            preemption.check()
        if cache.STAGE in config.stages and config.distill.cached:
            cache.complete(context, roots(context))
        if last.stage in config.stages:
            if opened.writable and all(context.store.find(step.recipe) for step in steps.values()):
                _make(context, last, steps, folder, tracker, f"{len(wanted)}/{len(wanted)}", left)
            shown = _close(context, steps, last, opened)
            tracker.report(shown, folder)
        for stage in ON_REQUEST:
            if stage.STAGE in config.stages and rank() == 0:
                stage.run(context, steps)
        if shown and shown.summary["status"] == COMPLETED and rank() == 0:
            _show_ending(opened.path, shown, config)
    except Exception as error:
        if not isinstance(error, Interrupted):
            opened.note(error)
        raise
    finally:
        tracker.finish()
        opened.close()
    return shown.summary if shown else None


def _read_on_request(context: Context) -> list[str]:
    asked = [stage for stage in ON_REQUEST if stage.STAGE in context.config.stages]
    return [role for stage in asked for role in stage.reads(context)]


def _warn_of_idle_stages(context: Context, steps: list[Step]) -> None:
    made = {step.stage for step in steps} | ({cache.STAGE} if context.config.distill.cached else set())
    for stage in context.config.stages:
        if stage not in made | run_folder.READING:
            log.warning("stages names %s, but this run has no such step.", stage)


def _announce(context: Context, wanted: list[Step]) -> Outlook:
    """The header of a run: its steps with their estimated time, and how many of them are made already."""
    cached = sum(context.store.find(step.recipe) is not None for step in wanted)
    expected = outlook.expected(context, wanted, world_size())
    if wanted:
        stages = outlook.header(wanted, expected)
        log.info("%s, %d of them cached: %s", counted(len(wanted), "step"), cached, stages)
    return expected


def _make(
    context: Context, step: Step, steps: Steps, folder: Path, tracker: Tracker, place: str, left: Outlook
) -> None:
    """`place` is the step's among all of this command, such as 4/9."""
    found, started = context.store.find(step.recipe), time.monotonic()
    state = "cached" if found else f"starting{left.left()}"
    log.info("%s %s %s (%s): %s", place, step.stage, step.role, step.recipe.fingerprint, state)
    Progress.after = left.seconds(without=step.role)
    context.store.obtain(step.recipe, step.make, step.agree)
    left.finish(step.role, time.monotonic() - started)
    if step.role == "tokens":
        checks.check_prepared(context, roots(context))
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


def _metrics(context: Context, step: Step) -> list[dict]:
    """A step's evaluations, or its steps of training; empty where it has none."""
    names = {search.STAGE: search.JOURNAL, rerank.STAGE: rerank.JOURNAL, distill.STAGE: METRICS}
    name = names.get(step.stage)
    artifact = context.store.find(step.recipe)
    if name is None or artifact is None:
        return []
    lines = map(json.loads, (artifact / name).read_text(encoding="utf-8").splitlines())
    # The journal's first line names the search; sub-networks and losses are long.
    left_out = ("subnetwork", "losses", SUM)
    return [
        {"role": step.role} | {key: value for key, value in line.items() if key not in left_out}
        for line in lines
        if "search" not in line
    ]


def _collect_metrics(context: Context, steps: Steps, opened: RunFolder) -> None:
    """metrics.jsonl of the run: every evaluation of the search, then every step of each model, from the artifacts."""
    if rank() != 0 or not opened.writable:
        return
    lines = [json.dumps(line) for step in steps.values() for line in _metrics(context, step)]
    write_atomically(opened.path / METRICS, "".join(f"{line}\n" for line in lines))


def _close(context: Context, steps: Steps, last: Step, opened: RunFolder) -> Material:
    """Puts the report into the run's folder, where people look for it, and shows the closing table."""
    from pipeline.report import html, sentences, tables  # with matplotlib, which a plan does without

    shown = material.gather(context, steps)
    if rank() != 0:
        return shown
    if opened.writable:
        context.store.claim(opened.path, shown.done)  # by other commands too: the page leads there
        _write_report(context, last, shown, opened.path)
    show(*tables.in_terminal(shown.summary), opened.path.parent.name)
    log.info("%s", sentences.result(shown.summary))
    if opened.writable:
        log.info("The report is %s and %s", near(opened.path) / material.PAGE, html.PAGE)
    return shown


def _write_report(context: Context, last: Step, shown: Material, folder: Path) -> None:
    from pipeline.report import pages

    if artifact := context.store.find(last.recipe):
        for path in artifact.iterdir():
            if path.name != MANIFEST:
                copy_atomically(path, folder / path.name)
    else:
        material.write(shown, folder)
    pages.write(shown, folder)


def _show_ending(folder: Path, shown: Material, config: Config) -> None:
    exported = Path(config.export.to or "") if export.STAGE in config.stages else None
    if shown.evaluation is not None and not random_weights(shown.summary):
        show_lines(*ending.continuations(shown.evaluation))
    show_lines(*(f"{name}: {path}" for name, path in ending.places(folder, exported)))
    show_commands(ending.next_commands(folder, exported))
