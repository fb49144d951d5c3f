"""Which of how many processes this is, by torchrun's variables."""

import os

from pipeline.errors import SprigError


def rank() -> int:
    return int(os.environ.get("RANK") or "0")


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE") or "1")


def local_world_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world_size())


def check_environment() -> None:
    """Whether the variables belong together.

    Raises:
        SprigError: one is not a number, or some are set and others are missing, as a shell that exports them leaves it.
    """
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if value := os.environ.get(name):
            if not value.isdecimal():
                raise SprigError(f"The environment has {name}={value}, which is not a number: unset {name}.")
            numbers[name] = int(value)
    number, size = numbers.get("RANK"), numbers.get("WORLD_SIZE")
    alone = number in (None, 0) and size in (None, 1)
    if not alone and (number is None or size is None or number >= size):
        raise SprigError(
            f"The environment has RANK={os.environ.get('RANK', '')} and WORLD_SIZE={os.environ.get('WORLD_SIZE', '')}, "
            "which do not name one of several processes: unset both, or start with python -m launchers.torchrun."
        )
    if missing := [] if alone else [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise SprigError(
            f"The environment has WORLD_SIZE={size} but no {' and '.join(missing)}: unset RANK and WORLD_SIZE, or "
            "start with python -m launchers.torchrun."
        )
