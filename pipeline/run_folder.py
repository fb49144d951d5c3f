"""A run's folder: which one it is, and opening it, for work or for reading alone."""

import logging
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from pipeline.artifacts import RUNNING, facts, link_atomically, marked, sweep_temporaries, write_atomically
from pipeline.artifacts.runs import summary
from pipeline.command_line.composition import compose
from pipeline.command_line.overrides import set_by
from pipeline.config import Config, to_plain
from pipeline.errors import SprigError, reason
from pipeline.layout import COMPLETED, LATEST, LOG, near
from pipeline.on_request import chat, export, sample, score
from pipeline.printable import one_line
from pipeline.ranks import rank
from pipeline.recorded import recorded
from pipeline.report import material
from pipeline.stages import graph
from pipeline.stages.context import Context, Step, Steps

READING = {material.STAGE, export.STAGE, sample.STAGE, chat.STAGE, score.STAGE}  # stages that work from what is made

log = logging.getLogger("sprig")


@dataclass(frozen=True)
class RunFolder:
    """`writable` is false for a finished run in a folder that can only be read, and for a copy; then nothing is written
    to it. `newer`: this command makes it the newest run, which one that reopens it does not."""

    path: Path
    writable: bool
    handler: logging.Handler
    mark: ExitStack = field(default_factory=ExitStack)
    newer: bool = False

    def name_latest(self) -> None:
        """Points `latest` to it, once its teacher and text are there: without them it is a run of no use."""
        if self.newer:
            link_atomically(self.path.parent / LATEST, self.path)

    def note(self, error: Exception) -> None:
        """Why the run failed, as the last line of its log; the terminal has it from the caller."""
        self.handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, one_line(reason(error)), (), None))

    def close(self) -> None:
        self.mark.close()
        log.removeHandler(self.handler)
        self.handler.close()


def reads_only(config: Config) -> bool:
    """Whether the command makes nothing of a run, but shows, exports or scores what is made."""
    return not config.plan and set(config.stages) <= READING


def path_of(context: Context, last: Step) -> Path:
    """`<outputs>/<name>/<id>`: the id is a hash of all that determines the result, so the same command finds it."""
    config = context.config
    return Path(config.outputs) / (config.run_name or config.preset) / last.recipe.fingerprint[:8]


def open_folder(context: Context, steps: Steps, last: Step, overrides: list[str]) -> RunFolder:
    """Makes the run's folder with its configuration, facts and log, or opens it again.

    Raises:
        SprigError: the run that is opened again is not one that this version of Sprig makes; or as _check_reported.
        OSError: the folder cannot be made or written, and there is work to do.
    """
    config, path = context.config, path_of(context, last)
    reopened = Path(config.run) if config.run else None
    if reopened is not None and context.store.copies:
        return _open_copy(context, last, reopened)
    itself = reopened is not None and path.exists() and path.samefile(reopened)
    if reopened is not None and not itself:
        _check_reopened(reopened, path)
    if material.STAGE in config.stages:
        _check_reported(context, steps, path)
    if path.exists() and not _is_writable(path) and (reads_only(config) or _is_made(context, [*steps.values(), last])):
        log.info("run folder %s is not writable: nothing is written to it", near(path))
        return RunFolder(path, False, logging.NullHandler())
    if rank() != 0:
        return RunFolder(path, True, logging.NullHandler())
    given = overrides if reopened is None else _with_its_own(reopened, overrides)
    with ExitStack() as mark:
        mark.enter_context(marked(path / RUNNING))  # first, as what `sprig rm` removes is not written to any more
        _describe(path, config, given)
        facts.write(path, context.facts, {role: step.recipe for role, step in (*steps.items(), (last.role, last))})
        for place in (path.parent, path, path / ".hydra"):
            sweep_temporaries(place)
        opened = RunFolder(path, True, _log_to(path / LOG), mark.pop_all(), newer=not itself)
    log.info("run folder %s", near(path))
    return opened


def refuse_copy(context: Context) -> None:
    """Raises SprigError where a plan is of the copy of a run."""
    if context.store.copies:
        raise SprigError(
            f"{context.config.run} is a copy of a run, in which nothing new is computed: plan the original run."
        )


def _open_copy(context: Context, last: Step, copied: Path) -> RunFolder:
    """A run that was copied with its results in place of the links to them.

    Raises:
        SprigError: it is to be reported on, and is not finished, or has a report of other values.
    """
    if material.STAGE in context.config.stages and not context.store.find(last.recipe):
        raise SprigError(
            f"{near(copied)} is a copy of a run without the report of these values, and nothing new is computed in a "
            "copy: give the command for the original run."
        )
    log.info("run folder %s is a copy with its own results: its report and log stay as they are", near(copied))
    return RunFolder(copied, False, logging.NullHandler())


def _check_reported(context: Context, steps: Steps, path: Path) -> None:
    """
    Raises:
        SprigError: a run is only reported on, and it has no folder while not all of it was made by others; or its
            folder has the report of what is not in the store, as where it was copied without that.
    """
    missing = [step for step in steps.values() if not context.store.find(step.recipe)]
    if not missing or any(step.stage in context.config.stages for step in steps.values()):
        return
    if not path.exists():
        raise SprigError(
            f"Run {near(path)} has not begun, so stages=[{material.STAGE}] has nothing to report: give the same "
            "command without stages= first."
        )
    if summary(path).get("status") == COMPLETED:
        raise SprigError(
            f"Run {near(path)} is finished, but {len(missing)} of its artifacts are not in {near(context.store.root)}, "
            f"{missing[0].stage}/{missing[0].recipe.fingerprint} first, so its report stays as it is: a run's folder "
            "needs the store in which it was made, next to the folders of the runs."
        )


def _is_made(context: Context, steps: Iterable[Step]) -> bool:
    return all(context.store.find(step.recipe) for step in steps if step.stage in context.config.stages)


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _describe(path: Path, config: Config, overrides: list[str]) -> None:
    """Once: a later command must not change whose run it is."""
    (path / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, content in (("config", to_plain(config)), ("overrides", overrides)):
        if not (file := path / ".hydra" / f"{name}.yaml").exists():
            write_atomically(file, OmegaConf.to_yaml(OmegaConf.create(content)))


def _with_its_own(reopened: Path, overrides: list[str]) -> list[str]:
    """The words that make a reopened run with other values from its sources: those that it began with, and the new."""
    before = map(str, recorded(reopened / ".hydra" / "overrides.yaml"))
    new = {set_by(word): word for word in overrides if set_by(word) != "run"}
    return [*(word for word in before if set_by(word) not in new), *new.values()]


class _Log(logging.FileHandler):
    """Ends with one warning where a line cannot be written, as on a full disk; the terminal still has the others."""

    ended = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.ended:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(error := sys.exception(), OSError):
            super().handleError(record)
            return
        self.ended = True
        log.warning("%s is not written any more (%s).", near(Path(self.baseFilename)), error.strerror)

    def close(self) -> None:
        with suppress(OSError):  # the line that did not fit is still in its buffer
            super().close()


def _log_to(file: Path) -> logging.Handler:
    try:
        handler = _Log(file, encoding="utf-8")
    except OSError as error:
        log.warning("%s is not written (%s).", file, error.strerror)
        return logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return handler


def _check_reopened(reopened: Path, path: Path) -> None:
    """A command that opens a run again under another id: its own values must be why, and not a change of the world.

    Raises:
        SprigError: without these values, too, the run would be another one.
    """
    alone = Context(compose([f"run={reopened}"]), lambda line: None)
    steps = graph.build(alone)
    last = material.step(alone, steps)
    now = path_of(alone, last)
    if now.exists() and now.samefile(reopened):
        log.info("With these values this is another run, %s; %s is unchanged.", path, reopened)
        return
    raise SprigError(
        f"Run {reopened} cannot be opened again: {_difference(reopened, now, {**steps, last.role: last})}. Run its own "
        f"command again ({reopened / '.hydra/overrides.yaml'}): it starts a new run and reuses what still fits."
    )


def _difference(reopened: Path, now: Path, steps: Steps) -> str:
    """`now` is where the run lies by what it is today."""
    if not (reopened / facts.FILE).exists():
        return (
            f"{facts.FILE} is not there, so it was created by an earlier version of Sprig, and its sources or Sprig "
            "changed since"
        )
    known = facts.read(reopened)["steps"]
    for role, step in steps.items():
        stage, version, fingerprint = known.get(role, (step.stage, None, None))
        if version != step.recipe.version:
            return f"its {stage} is of version {version}, and this Sprig makes version {step.recipe.version}"
        if fingerprint != step.recipe.fingerprint:
            return f"its configuration or name was edited ({role} is {fingerprint}, not {step.recipe.fingerprint})"
    return f"its folder was renamed or moved since it was created as {now.parent.name}/{now.name}"
