"""Rerank: the best distinct candidates, trained once each, the lowest loss wins."""

import math

import pytest
from toy import SPACE, configure, walk

from pipeline.errors import SprigError
from pipeline.search.journal import Journal, read
from pipeline.search.rerank import best_of, rerank


@pytest.fixture
def searched(tmp_path):
    walk(configure("evolution"), tmp_path / "journal")
    return tmp_path / "journal"


def run(candidates, losses: dict, path) -> tuple:
    """The winner, and which candidates were trained for it."""
    trained = []

    def train(sub):
        trained.append(sub)
        return losses[sub]

    journal = Journal(path, "abc")
    try:
        return rerank(candidates, train, journal, lambda line: None), trained
    finally:
        journal.close()


def test_the_best_distinct_candidates_come_best_first(searched):
    lines = {line["subnetwork"]: line["fitness"] for line in read(searched)}
    best = best_of(searched, 4)
    assert len(set(best)) == 4 and [lines[sub] for sub in best] == sorted(lines.values())[:4]
    assert len(best_of(searched, 10_000)) == len(lines)


def test_the_lowest_loss_wins_whatever_the_fitness_was(searched, tmp_path):
    best = best_of(searched, 4)
    losses = dict(zip(best, (3.0, math.inf, 2.5, 2.5), strict=True))
    winner, trained = run(best, losses, tmp_path / "rerank")
    assert winner.subnetwork == best[2] and trained == best, "equal losses keep the search's order"


def test_what_was_trained_before_a_kill_is_not_trained_again(searched, tmp_path):
    best = best_of(searched, 3)
    losses = dict(zip(best, (3.0, 2.0, 2.5), strict=True))
    with pytest.raises(KeyError):  # dies at the third
        run(best, {sub: losses[sub] for sub in best[:2]}, tmp_path / "rerank")
    winner, trained = run(best, losses, tmp_path / "rerank")
    assert trained == best[2:] and winner.subnetwork == best[1]
    whole, _ = run(best, losses, tmp_path / "other")
    assert (tmp_path / "rerank").read_bytes() == (tmp_path / "other").read_bytes() and whole == winner


def test_no_finite_loss_is_said(searched, tmp_path):
    best = best_of(searched, 2)
    with pytest.raises(SprigError, match=r"None of 2 reranked candidates"):
        run(best, dict.fromkeys(best, math.inf), tmp_path / "rerank")
    assert SPACE.contains(best[0])
