"""Locks between the processes of one machine, or of several on a shared file system."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from pipeline.errors import SprigError

# On a file system without flock, the holder renews a file that names its host and process every third of this. After
# this many seconds without a renewal (its machine was switched off, say), the next process takes the lock over.
LEASE_SECONDS = 120.0
_NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP)  # the same on every machine: the file system has none
_TRIES = 10
_GLANCE = 0.2  # seconds that a process is given which only looks whether the lock is held, and has it meanwhile

log = logging.getLogger("sprig")


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[Callable[[], None]]:
    """One process at a time: the others wait, and log it.

    Yields:
        A function that raises SprigError if the lock was lost meanwhile, which a lease can be. Call it before work
        is published.

    Raises:
        Timeout: another process holds it, and `wait` is false.
        SprigError: the file system of `folder` does not support locks.
    """
    lock = _acquired(folder, wait)

    def check() -> None:
        if isinstance(lock, SoftFileLease) and lock.compromise is not None:
            raise SprigError(
                f"The lock on {folder} was lost to another process, because this one did not renew it for "
                f"{LEASE_SECONDS:.0f} seconds: run the same command again."
            )

    try:
        yield check
    finally:
        lock.release()


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Any number of processes at a time, which hold off those that want it `locked`; makes the folder that it is in.

    Without flock, the first of them alone holds the mark, as a lease.

    Raises:
        OSError: the mark cannot be written.
        SprigError: as `locked`.
    """
    with ExitStack() as stack:
        try:
            stack.callback(_release, _shared(Path(f"{folder}.lock")))
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise _explained(error, folder) from None
            with suppress(Timeout):
                stack.enter_context(locked(folder, wait=False))
        yield


def _shared(path: Path) -> int:
    """An open file under a shared lock; waits for a process that has it to itself, which may remove it."""
    while True:
        file = _opened(path)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    return file
        except OSError:
            os.close(file)
            raise
        os.close(file)


def _opened(path: Path) -> int:
    """Made with its folder, which another process may remove between the two."""
    for _ in range(_TRIES - 1):
        with suppress(FileNotFoundError, FileExistsError):
            return _made(path)
    return _made(path)


def _made(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)


def _release(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to the processes forked meanwhile
    os.close(file)


def is_held(folder: Path) -> bool:
    """Whether a process holds the lock of `folder`. Where nothing can be written, as far as this process sees, no."""
    try:
        file = os.open(f"{folder}.lock", os.O_RDWR)  # `locked` would make its folder, which may just have been removed
    except OSError:
        return False
    try:
        return not _is_free(file)
    except OSError as error:
        return error.errno in _NO_FLOCK and _is_leased(folder)
    finally:
        os.close(file)


def _is_free(file: int) -> bool:
    for _ in range(_TRIES):
        with suppress(BlockingIOError, PermissionError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            return True
        time.sleep(_GLANCE / _TRIES)
    return False


def _is_leased(folder: Path) -> bool:
    try:
        with locked(folder, wait=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _acquired(folder: Path, wait: bool) -> BaseFileLock:
    try:
        return _wait_for(FileLock(f"{folder}.lock", fallback_to_soft=False), folder, wait)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return _wait_for(SoftFileLease(f"{folder}.lease", lease_duration=LEASE_SECONDS), folder, wait)
        raise _explained(error, folder) from None


def _explained(error: OSError, folder: Path) -> Exception:
    if error.errno != errno.ENOLCK:
        return error
    return SprigError(
        f"{folder.parent} does not support file locks ({os.strerror(errno.ENOLCK)}), so two runs could damage "
        "each other's results: start the file system's lock service, or set a different outputs=."
    )


def _wait_for(lock: BaseFileLock, folder: Path, wait: bool) -> BaseFileLock:
    try:
        lock.acquire(timeout=0 if wait else _GLANCE, poll_interval=_GLANCE / _TRIES)
    except Timeout:
        if not wait:
            raise
        log.info("Another process is working on %s; waiting for it.", folder)
        lock.acquire()
    return lock
