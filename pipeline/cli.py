"""The command line: what kind of command it is, logging, and expected failures in one sentence."""

import errno
import logging
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from pipeline import commands, peers, run_checked, streams
from pipeline.command_line.arguments import ACTIONS, Command, parse
from pipeline.command_line.composition import (
    CONF,
    anywhere,
    compose,
    composed,
    parsed,
    session,
    starts_jobs,
    without_hydra,
)
from pipeline.command_line.overrides import TOKENS, key_of
from pipeline.config import keys
from pipeline.errors import SprigError
from pipeline.places import out_of_reach
from pipeline.printable import one_line
from pipeline.ranks import check_environment, rank, world_size

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
# What torch's CPU allocator, threads and libraries say, which have no class for it.
NO_MEMORY = ("can't allocate memory", "can't start new thread", "failed to map segment")
OUT_OF_MEMORY = (
    "Out of memory; what was finished is kept. Lower the batch of the stage in the last log line (ordering.batch, "
    "search.batch, recover.batch, distill.micro_batch or evaluate.batch; more in docs/troubleshooting.md), and run the "
    "command again. debug=true shows where it happened."
)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line; exit code 1 and one sentence where that cannot be done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _guarded(lambda: _main(arguments), arguments)


@streams.usable()
def _main(arguments: list[str]) -> None:
    _check_working_directory()
    check_environment()
    _start_logging()
    if commands.named(arguments):
        commands.run(arguments)
        return
    command = parse(arguments)
    if command.version:
        print(f"sprig {metadata.version('sprig-lm')}")
    elif command.hydra:
        with session([word for word in command.words if word not in ACTIONS]):  # which checks the words
            _hydra()
    elif command.help:
        _help(command.words)
    elif command.show:
        _show(command)
    else:
        _start(command.words, command.multirun)


def _check_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise SprigError(
            "The working directory was removed: change to another one, and run the command again."
        ) from None


def _start(words: list[str], multirun: bool) -> None:
    kinds = {key_of(word) for word in words}
    if multirun and kinds & {"run", "sweep"}:
        raise SprigError(
            "run=FOLDER reopens one run and sweep=FOLDER one sweep: leave --multirun out, or leave out the folder."
        )
    if "sweep" in kinds:
        _report(words)
    elif "run" not in kinds and (multirun or starts_jobs(words)):
        if (ranks := world_size()) > 1:
            raise SprigError(
                f"These overrides are a sweep, which starts processes itself, but {ranks} ranks of it were started: "
                f"start one, and set hydra.launcher.gpus_per_job={ranks} to give each job {ranks} ranks."
            )
        from launchers.sweep.launcher import start

        start(words)
    else:
        run_checked(compose(words), anywhere(words))


def _report(words: list[str]) -> None:
    """The report of a sweep's folder, made again."""
    others = {key_of(word) for word in words} - {"sweep", "stages", "debug", "outputs"}
    given = {} if others else parsed(words)
    if others or given.get("stages", ["report"]) != ["report"]:
        raise SprigError("sweep=FOLDER reports on a sweep and does nothing else: sprig sweep=FOLDER stages=[report].")
    from pipeline.artifacts.runs import OUTPUTS
    from pipeline.report.sweep import record
    from pipeline.report.sweep import report as sweep_report

    sweep_report.report(record.sweep_folder(given["sweep"], Path(given.get("outputs") or OUTPUTS)))


def _help(words: list[str]) -> None:
    with session([word for word in words if "=" in word]) as opened:
        config = opened.compose()
        print(Hydra("sprig", opened.loader).get_help(config.hydra.help, config, get_args_parser(), resolve=False))


def _show(command: Command) -> None:
    """Prints the configuration that a command ends up with; of a sweep, what its jobs share."""
    config = composed(command.words, sweeps=command.multirun)
    if command.show == "job":
        config = without_hydra(config)
    elif command.show == "hydra":
        config = OmegaConf.masked_copy(config, ["hydra"])
    shown = OmegaConf.select(config, command.package) if command.package not in (None, "_global_") else config
    if shown is None:
        raise SprigError(f"--package {command.package}: the configuration has no such part, or it is null.")
    if command.resolve and isinstance(shown, DictConfig):
        OmegaConf.resolve(shown)
    print(OmegaConf.to_yaml(shown) if OmegaConf.is_config(shown) else one_line(str(shown)))


def _guarded(work: Callable[[], object], arguments: list[str]) -> None:
    """Does the work; what can be expected to fail ends the process with one sentence."""
    debug = "debug=true" in arguments
    try:
        with peers.failing():
            work()
    except SprigError as error:
        _fail(_as_typed(str(error), arguments), error, debug)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        if (sentence := _expected(error, arguments)) is not None:
            _fail(sentence, error, debug)
        if debug or not (isinstance(error, RuntimeError) and (sentence := peers.lost(5))):
            raise
        sys.exit(f"sprig: {sentence}")  # each rank that is left says why its collective failed
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command resumes from here.")


def _as_typed(sentence: str, arguments: list[str]) -> str:
    """With the budget that was typed, if the sentence speaks of the key that it sets."""
    for typed in arguments:
        if typed.startswith(f"{keys.BUDGET}=") and f"{TOKENS}=" in sentence and typed not in sentence:
            return f"{sentence} The command sets it with {typed}."
    return sentence


def _expected(error: Exception, arguments: list[str]) -> str | None:
    """What to say of an error of the machine; None if it is another one."""
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, of a GPU; torch may not be imported yet
        or any(said in str(error) for said in NO_MEMORY)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    ):
        return OUT_OF_MEMORY
    return _out_of_reach(error, arguments) if isinstance(error, OSError) and error.errno is not None else None


def _out_of_reach(error: OSError, arguments: list[str]) -> str:
    kept = "what was finished is kept"
    if error.errno in TOO_MANY_FILES:
        return f"Too many files are open, {kept}: raise the limit (ulimit -n 4096) and run the same command again."
    return (
        f"{out_of_reach(error, error.filename or 'the outputs folder')}: {kept}; fix this, or set a different "
        f"{_key_of(error.filename, arguments)}=, and run the same command again (debug=true shows where it happened)."
    )


def _key_of(place: Any, arguments: list[str]) -> str:
    """The key whose typed path holds the place, the innermost one; that of the outputs if there is none."""
    holds = {"outputs": 0}
    for key, value in ((key_of(word), word.partition("=")[2]) for word in arguments):
        folder = os.path.abspath(os.path.expanduser(value))
        if (known := keys.find(key)) and known.is_path and Path(os.path.abspath(str(place))).is_relative_to(folder):
            holds[key] = len(folder)
    return max(holds, key=holds.__getitem__)


def _fail(sentence: str, error: Exception, debug: bool) -> None:
    if debug:
        raise error
    sys.exit(f"sprig: {one_line(sentence)}" if _speaks() else 1)


def _speaks() -> bool:
    """Of several processes, which all fail alike, rank 0 speaks."""
    try:
        check_environment()
    except SprigError:
        return True
    return rank() == 0


def _in_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), None
    return True


def _start_logging() -> None:
    logger = logging.getLogger("sprig")
    logger.setLevel(logging.INFO)
    logger.addFilter(_in_one_line)
    if not logger.handlers:
        level = logging.INFO if rank() == 0 else logging.ERROR
        handler = streams.LogHandler(level, show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S")
        logger.addHandler(handler)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra(config: DictConfig) -> None:
    """--hydra-help, --info and --shell-completion: Hydra's own pages; it never gets as far as a run."""
