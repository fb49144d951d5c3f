"""A rank that dies ends the others within a bounded time; one that ends well, or is only busy, does not."""

import logging
import os
import signal
import socket
import time
from multiprocessing import get_context

import pytest

from pipeline import peers

FORK = get_context("fork")


def live(number, ranks, pipes, act, file):
    """One rank, which then does nothing that could notice the death of another: as in a collective of NCCL."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    peers.log.addHandler(logging.FileHandler(file))
    peers.GRACE, peers._Links.failed = 0.2, False  # a run of this process may have failed before the fork
    if number == 0:
        address = peers.listen()
        for pipe in pipes[1:]:
            pipe[1].send(address)
    else:
        peers.join(pipes[number][0].recv())
    while len(peers._Links.sockets) < (ranks - 1 if number == 0 else 1):
        time.sleep(0.01)
    pipes[0][1].send(number)
    act(number)


@pytest.fixture
def start(tmp_path):
    processes = []

    def started(ranks, act):
        pipes = [FORK.Pipe(duplex=False) for _ in range(ranks)]
        for number in range(ranks):
            arguments = number, ranks, pipes, act, tmp_path / f"{number}.txt"
            processes.append(FORK.Process(target=live, args=arguments))
            processes[-1].start()
        assert sorted(pipes[0][0].recv() for _ in range(ranks)) == list(range(ranks)), "all are connected"
        return processes

    yield started
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_with_a_sentence(start, tmp_path, dead):
    processes = start(3, lambda number: time.sleep(60))
    processes[dead].kill()
    for number, process in enumerate(processes):
        process.join(10)
        assert process.exitcode == (-signal.SIGKILL if number == dead else 1)
    said = (tmp_path / f"{2 if dead == 0 else 0}.txt").read_text()
    assert f"Rank {dead} has failed" in said and "resumes from here" in " ".join(said.split())


def test_a_rank_that_ends_well_leaves_the_others_alone(start):
    def act(number):
        if number != 1:
            time.sleep(1)
        peers.leave()

    for process in start(3, act):
        process.join(10)
        assert process.exitcode == 0


def test_a_rank_that_fails_ends_the_others(start):
    def act(number):
        if number == 1:
            with pytest.raises(ValueError), peers.failing():
                raise ValueError
            peers.leave()
        else:
            time.sleep(60)

    for number, process in enumerate(start(3, act)):
        process.join(10)
        assert process.exitcode == (0 if number == 1 else 1)


def test_a_rank_that_stands_still_is_not_dead(start):
    processes = start(2, lambda number: time.sleep(1))
    os.kill(processes[0].pid, signal.SIGSTOP)
    processes[1].join(10)
    assert processes[1].exitcode == 0
    os.kill(processes[0].pid, signal.SIGCONT)


def test_strangers_are_neither_let_in_nor_missed(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    watched = []
    monkeypatch.setattr(peers, "_watch", lambda links: watched.extend(links.values()))
    host, port, key = peers.listen()
    for shown in (b"", b"GET / HTTP/1.1\r\n\r\n", f"{key[::-1]}{1:08}".encode()):
        with socket.create_connection((host, port)) as stranger:
            stranger.sendall(shown)
    with socket.create_connection((host, port)) as link:
        link.sendall(f"{key}{1:08}".encode())
        deadline = time.monotonic() + 10
        while not watched and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watched == [1]
