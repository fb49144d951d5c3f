"""The command line: logging, sweeps, and expected failures in one sentence."""

import errno
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.logging import RichHandler

from pipeline import run
from pipeline.composition import CONF, compose, declares_sweep
from pipeline.config import register, to_objects
from pipeline.errors import SprigError
from pipeline.ranks import rank

MULTIRUN = {"-m", "--multirun"}
OUT_OF_REACH = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is over its quota",
    errno.EROFS: "is read-only",
    errno.EACCES: "may not be written",
    errno.EPERM: "may not be written",
    errno.ENOTDIR: "is not a folder",
    errno.EEXIST: "is not a folder",
}


def main(arguments: list[str] | None = None) -> None:
    """Runs the overrides of the command line; exit code 1 and one sentence where that cannot be done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = {argument for argument in arguments if argument.startswith("-")}
    overrides = [argument for argument in arguments if argument not in flags]
    _start_logging()
    if flags and any(override.startswith("run=") for override in overrides):
        sys.exit("sprig: run=FOLDER reopens one run: give it without --multirun and other options.")
    if flags & MULTIRUN and flags - MULTIRUN:
        sys.exit(f"sprig: --multirun goes without {' '.join(sorted(flags - MULTIRUN))}.")
    if flags - MULTIRUN:
        register()
        _hydra()  # --help, --cfg: Hydra's own
    else:
        _guarded(lambda: _start(overrides, sweep=bool(flags)), debug="debug=true" in overrides)


def _start(overrides: list[str], sweep: bool) -> None:
    if any(override.startswith("sweep=") for override in overrides):
        _report(dict(override.partition("=")[::2] for override in overrides))
    elif sweep or declares_sweep(overrides):
        from launchers.sweep.launcher import start

        start(overrides)
    else:
        run(compose(overrides), overrides)


def _report(given: dict[str, str]) -> None:
    """The report of a sweep's folder, made again."""
    if set(given) - {"sweep", "stages", "debug"} or given.get("stages", "[report]") != "[report]":
        raise SprigError("sweep=FOLDER reports on a sweep and does nothing else: sprig sweep=FOLDER stages=[report].")
    from pipeline.report.sweep import report as sweep_report

    sweep_report.report(Path(given["sweep"]))


def _guarded(work: Callable[[], object], debug: bool) -> None:
    """Does the work; what can be expected to fail ends the process with one sentence."""
    try:
        work()
    except SprigError as error:
        _fail(str(error), error, debug)
    except OSError as error:
        if error.errno not in OUT_OF_REACH:
            raise
        place = error.filename or "the outputs folder"
        _fail(
            f"{place} {OUT_OF_REACH[error.errno]}: what was finished is kept; mend that, or choose another outputs=, "
            "and run the same command again.",
            error,
            debug,
        )
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command goes on from here.")


def _fail(sentence: str, error: Exception, debug: bool) -> None:
    if debug:
        raise error
    sys.exit(f"sprig: {sentence}" if rank() == 0 else 1)


def _start_logging() -> None:
    logger = logging.getLogger("sprig")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        level = logging.INFO if rank() == 0 else logging.ERROR
        logger.addHandler(RichHandler(level, show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S"))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra(config: DictConfig) -> None:
    overrides = list(HydraConfig.get().overrides.task)
    _guarded(lambda: run(to_objects(config), overrides), config.debug)
