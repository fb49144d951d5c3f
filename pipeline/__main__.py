"""The single entrypoint: `sprig` and `python -m pipeline`."""

import errno
import logging
import sys

import hydra
from omegaconf import DictConfig, OmegaConf
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
}


def main() -> None:
    """Runs the overrides of the command line; exit code 1 and one sentence where that cannot be done."""
    arguments = sys.argv[1:]
    _start_logging()
    if any(argument.startswith("-") for argument in arguments):
        register()
        _hydra()  # --help, --cfg, --multirun: Hydra's own
        return
    debug = "debug=true" in arguments
    try:
        run(compose(arguments), arguments)
    except SprigError as error:
        _fail(str(error), error, debug)
    except OSError as error:
        if error.errno not in OUT_OF_REACH:
            raise
        place = error.filename or "the outputs folder"
        _fail(
            f"{place} {OUT_OF_REACH[error.errno]}: what was finished is kept; make room there, or choose another "
            "outputs=, and run the same command again.",
            error,
            debug,
        )
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command goes on from here.")


def _fail(sentence: str, error: Exception, debug: bool) -> None:
    if debug:
        raise error
    sys.exit(f"sprig: {sentence}")


def _start_logging() -> None:
    logger = logging.getLogger("sprig")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        level = logging.INFO if rank() == 0 else logging.ERROR
        logger.addHandler(RichHandler(level, show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S"))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra(config: DictConfig) -> None:
    run(to_objects(config), list(OmegaConf.to_container(hydra.core.hydra_config.HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
