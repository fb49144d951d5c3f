"""Notices that another rank has died, and ends this one.

A launcher ends the ranks of its own machine. Those on other machines may wait in a collective for days, because rank 0
may work alone for hours. So each rank keeps a TCP connection to rank 0. The kernel closes it when a process dies in
whatever way, and probes it, so that a lost machine is noticed too; a process that is busy or stopped answers all the
same.
"""

import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.ranks import rank, world_size

GRACE = 60.0  # seconds in which a rank may end by itself, as one does that fails like the dead one
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 12}  # a lost machine is noticed after 3 minutes
_BYE = b"."

log = logging.getLogger("sprig")

Address = tuple[str, int, str]


class _Links:
    sockets: tuple[socket.socket, ...] = ()
    lost = threading.Event()
    sentence = ""
    failed = False


def listen() -> Address:
    """Rank 0 waits for the others: its host and port, and a key that strangers do not have."""
    server, key = socket.create_server(("", 0)), secrets.token_hex(16)
    threading.Thread(target=_accept, args=(server, key), name="peers", daemon=True).start()
    return os.environ["MASTER_ADDR"], server.getsockname()[1], key


def join(address: Address) -> None:
    """Connects another rank to rank 0. Where the network does not allow it, the run works without."""
    host, port, key = address
    try:
        link = socket.create_connection((host, port), timeout=60)
        link.sendall(f"{key}{rank():08}".encode())
    except OSError as error:
        log.warning("Rank %d cannot watch rank 0 at %s:%d (%s).", rank(), host, port, error)
        return
    _Links.sockets = (link,)  # before this rank can leave
    threading.Thread(target=_watch, args=({link: 0},), name="peers", daemon=True).start()


def leave() -> None:
    """At the end of a process: the others need not end, unless `failing` has seen it fail."""
    for link in () if _Links.failed else _Links.sockets:
        with suppress(OSError):  # it has left before
            link.sendall(_BYE)


@contextmanager
def failing() -> Iterator[None]:
    """Around the work of a process: an exception means that the other ranks must end too."""
    try:
        yield
    except BaseException:
        _Links.failed = True
        raise


def lost(seconds: float) -> str:
    """What has happened to another rank, in a sentence; empty if nothing is noticed within `seconds`."""
    return _Links.sentence if _Links.sockets and _Links.lost.wait(seconds) else ""


def _accept(server: socket.socket, key: str) -> None:
    links: dict[socket.socket, int] = {}
    with server:
        while len(links) < world_size() - 1:
            link, _ = server.accept()
            try:
                link.settimeout(60)
                shown = link.recv(len(key) + 8, socket.MSG_WAITALL).decode("ascii", "replace")
            except OSError:
                shown = ""
            if shown[: len(key)] == key:
                links[link] = int(shown[len(key) :])
                _Links.sockets = tuple(links)
            else:
                link.close()
    _watch(links)


def _watch(links: dict[socket.socket, int]) -> None:
    with selectors.DefaultSelector() as selector:
        for link, number in links.items():
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                if hasattr(socket, option):
                    link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            link.settimeout(60)
            selector.register(link, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                selector.unregister(key.fileobj)
                if _read(key.fileobj) != _BYE:
                    _end(key.data)


def _read(link: object) -> bytes:
    assert isinstance(link, socket.socket)
    try:
        return link.recv(1)
    except OSError:
        return b""


def _end(number: int) -> None:
    """The main thread may be in a collective that nothing interrupts."""
    _Links.sentence = (
        f"Rank {number} has failed, or its machine is out of reach, so rank {rank()} ends: the same command resumes "
        "from here."
    )
    _Links.lost.set()
    time.sleep(GRACE)
    log.error(_Links.sentence)
    os._exit(1)
