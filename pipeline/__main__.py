"""The single entrypoint: `sprig` and `python -m pipeline`."""

import errno
import logging
import sys
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.logging import RichHandler

from pipeline import run
from pipeline.composition import CONF, compose
from pipeline.config import register, to_objects
from pipeline.errors import SprigError
from pipeline.ranks import rank

OUT_OF_REACH = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is over its quota",
    errno.EROFS: "is read-only",
    errno.EACCES: "may not be written",
    errno.EPERM: "may not be written",
    errno.ENOTDIR: "is not a folder",
    errno.EEXIST: "is not a folder",
}


def main() -> None:
    """Runs the overrides of the command line; exit code 1 and one sentence where that cannot be done."""
    arguments = sys.argv[1:]
    _start_logging()
    if any(argument.startswith("-") for argument in arguments):
        if any(argument.startswith("run=") for argument in arguments):
            sys.exit("sprig: run=FOLDER reopens one run: give it without --multirun and other options.")
        # Hydra's parser takes no overrides behind a flag.
        sys.argv[1:] = sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))
        register()
        _hydra()  # --help, --cfg, --multirun: Hydra's own
    else:
        _guarded(lambda: run(compose(arguments), arguments), debug="debug=true" in arguments)


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


if __name__ == "__main__":
    main()
