"""What every search keeps to: its journal, its limits, and one way for one seed, whatever kills it."""

import json
import math
import re
from itertools import count

import numpy as np
import pytest
from covering import grid
from toy import BLOCKS, LENGTH, SPACE, TEACHER, Counted, configure, fitness, follow, make_budget, walk

from pipeline.config import FROM_A_POPULATION, BinConfig, LimitConfig, SpaceConfig
from pipeline.errors import SprigError
from pipeline.search.forecast import candidates
from pipeline.search.journal import Journal, read
from pipeline.search.strategies.given import Given
from pipeline.subnetwork.bins import make_bin
from pipeline.subnetwork.counting import flops_per_token, parameters
from pipeline.subnetwork.space import Space

SEARCHES = [*map(str, FROM_A_POPULATION), "surrogate", "random"]


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_search_scores_what_is_configured_once_each_and_only_in_the_bin(tmp_path, kind):
    evaluate, config = Counted(), configure(kind)
    budget = make_budget(config.limit)
    best = walk(config, tmp_path / "journal", evaluate, budget=budget)
    lines = read(tmp_path / "journal")
    assert [line["key"] for line in lines] == evaluate.calls
    assert len(set(evaluate.calls)) == len(lines) == candidates(config) == budget.spent.evaluations
    assert {line["blocks"] for line in lines} == {BLOCKS}
    assert all(SPACE.contains(line["subnetwork"]) for line in lines)
    assert all(line["parameters"] == parameters(TEACHER, line["subnetwork"]) for line in lines)
    assert best.fitness == min(fitness(line["subnetwork"]) for line in lines) == fitness(best.subnetwork)


@pytest.mark.parametrize("kind", SEARCHES)
def test_the_seed_alone_decides_the_way(tmp_path, kind):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        walk(configure(kind), tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(("dies_at", "kind"), grid([0, 3, 10, 17, 59], SEARCHES))
def test_a_killed_search_goes_on_to_the_same_journal(tmp_path, dies_at, kind):
    config = configure(kind)
    whole = walk(config, tmp_path / "whole", seed=3)
    with pytest.raises(KeyboardInterrupt):
        walk(config, tmp_path / "killed", Counted(dies_at), seed=3)
    resumed, budget = Counted(), make_budget(config.limit)
    assert walk(config, tmp_path / "killed", resumed, seed=3, budget=budget) == whole
    assert len(resumed.calls) == candidates(config) - dies_at
    assert budget.spent.evaluations == candidates(config)
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


MOST = [("evaluations", 23), ("tokens", 2_500), ("flops", 60_000_000)]


@pytest.mark.parametrize(("kind", "limit"), grid(SEARCHES, MOST))
def test_a_limit_stops_the_same_way_short(tmp_path, kind, limit):
    """A limited search is the beginning of the unlimited one; one more evaluation would have been too much."""
    name, most = limit
    walk(configure(kind), tmp_path / "whole")
    config = configure(kind, limit=LimitConfig(**{name: most}))
    budget = make_budget(config.limit)
    walk(config, tmp_path / "limited", budget=budget)
    whole, limited = read(tmp_path / "whole"), read(tmp_path / "limited")
    assert len(limited) < len(whole) and limited == whole[: len(limited)]
    assert vars(budget.spent) == spent(limited)
    assert spent(limited)[name] <= most < spent(whole[: len(limited) + 1])[name]


def spent(lines: list[dict]) -> dict[str, int]:
    tokens = [len(line["losses"]) * LENGTH for line in lines]
    flops = [flops_per_token(TEACHER, line["subnetwork"], length=LENGTH) for line in lines]
    return {
        "evaluations": len(lines),
        "tokens": sum(tokens),
        "flops": sum(a * b for a, b in zip(tokens, flops, strict=True)),
    }


@pytest.mark.parametrize("kind", ["one_plus_lambda", "random"])
def test_a_limit_below_one_whole_evaluation_is_an_error(tmp_path, kind):
    config = configure(kind, limit=LimitConfig(tokens=BLOCKS * LENGTH - 1))
    with pytest.raises(SprigError, match="before any candidate was evaluated: raise the limit"):
        walk(config, tmp_path / "journal")


def test_a_killed_search_with_a_limit_ends_where_the_uninterrupted_one_does(tmp_path):
    config = configure("one_plus_lambda", limit=LimitConfig(tokens=2_500))
    walk(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        walk(config, tmp_path / "killed", Counted(dies_at=12))
    walk(config, tmp_path / "killed")
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_line_cut_by_a_kill_is_dropped_and_said(tmp_path, caplog):
    config = configure("random", evaluations=8)
    walk(config, tmp_path / "whole")
    torn = (tmp_path / "whole").read_bytes()[:-20]
    (tmp_path / "torn").write_bytes(torn)
    evaluate = Counted()
    walk(config, tmp_path / "torn", evaluate)
    assert len(evaluate.calls) == 1
    assert "cut short" in caplog.text
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()


def changed_digit(line: bytes) -> bytes:
    """In the last place of a loss."""
    found = re.search(rb'"losses": \[[^],]*', line)
    assert found
    return line.replace(found[0], found[0][:-1] + (b"1" if found[0].endswith(b"7") else b"7"))


DAMAGES = ["garbage", "not a line of a journal", "a changed byte", "a changed digit", "NaN", "first line", "empty"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_from_a_damaged_line_on_evaluations_are_repeated(tmp_path, caplog, damage):
    config = configure("random", evaluations=8)
    walk(config, tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    number = 0 if damage == "first line" else 5
    lines[number] = {
        "not a line of a journal": b'{"key": "a"}\n',
        "a changed byte": lines[number].replace(b'"n_embd": ', b'"n_embd": 9'),
        "a changed digit": lines[number] if number == 0 else changed_digit(lines[number]),
        "NaN": re.sub(rb'"fitness": [^,]+', b'"fitness": NaN', lines[number]),
    }.get(damage, b"\0\xff\n")
    (tmp_path / "damaged").write_bytes(b"" if damage == "empty" else b"".join(lines))
    evaluate, repeated = Counted(), {"first line": 8, "empty": 8}.get(damage, 4)
    assert len(read(tmp_path / "damaged")) == 8 - repeated
    walk(config, tmp_path / "damaged", evaluate)
    assert len(evaluate.calls) == repeated
    assert (f"line {number + 1} was cut short" in caplog.text) == (damage != "empty")
    assert (tmp_path / "damaged").read_bytes() == (tmp_path / "whole").read_bytes()


class Repeating:
    """Asks for four candidates, and for some of them again: before and beside new ones, and twice at a time."""

    def __init__(self):
        rng = np.random.default_rng(0)
        a, b, c, d = (SPACE.sample(rng) for _ in range(4))
        self.batches, self.told = [[a, b], [c, a, a], [d, d, b]], []

    def ask(self):
        return self.batches.pop(0) if self.batches else []

    def tell(self, scored):
        self.told += scored


@pytest.mark.parametrize("dies_at", [None, 1, 2, 3])
def test_a_candidate_that_is_asked_for_again_is_told_its_own_fitness(tmp_path, dies_at):
    path, config = tmp_path / "journal", configure("random")
    if dies_at is not None:
        with pytest.raises(KeyboardInterrupt):
            follow(config, Repeating(), path, Counted(dies_at))
    strategy, resumed = Repeating(), Counted()
    asked = [sub for batch in strategy.batches for sub in batch]
    follow(config, strategy, path, resumed)
    assert [(each.subnetwork, each.fitness) for each in strategy.told] == [(sub, fitness(sub)) for sub in asked]
    assert len(resumed.calls) == 4 - (dies_at or 0)
    assert {line["key"]: line["fitness"] for line in read(path)} == {sub.key: fitness(sub) for sub in asked}


def test_a_journal_of_an_earlier_version_has_no_checksums(tmp_path):
    config = configure("random", evaluations=8)
    walk(config, tmp_path / "whole")
    known = read(tmp_path / "whole")
    plain, found = re.subn(r', "sum": "\w{16}"', "", (tmp_path / "whole").read_text())
    (tmp_path / "earlier").write_text(plain)
    walk(config, tmp_path / "earlier", evaluate := Counted())
    assert found == 9 and evaluate.calls == [] and read(tmp_path / "earlier") == known


def test_a_journal_of_another_search_is_refused(tmp_path):
    Journal(tmp_path / "journal", "abc").close()
    with pytest.raises(SprigError, match="belongs to search abc, not to xyz: remove it to start again"):
        Journal(tmp_path / "journal", "xyz")


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_loss_that_is_not_finite_never_wins(tmp_path, kind):
    calls = count()

    def evaluate(sub):
        return math.inf if next(calls) % 3 == 0 else fitness(sub)

    best = walk(configure(kind), tmp_path / "journal", evaluate)
    lines = read(tmp_path / "journal")
    assert math.isinf(lines[0]["fitness"])
    assert math.isfinite(best.fitness)
    assert "Infinity" not in (tmp_path / "journal").read_text()


def test_no_finite_loss_at_all_is_an_error(tmp_path):
    with pytest.raises(SprigError, match="None of 8 candidates has a finite loss"):
        walk(configure("random", evaluations=8), tmp_path / "journal", lambda sub: math.inf)


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_space_that_runs_out_of_new_members_ends_the_search_and_that_is_said(tmp_path, caplog, kind):
    config = SpaceConfig(hold=["n_embd", "head_size", "n_query_groups", "heads_per_group", "intermediate_size"])
    tiny = Space(TEACHER, config, make_bin(BinConfig(low=1, high=10**9)), None)  # four depths
    walk(configure(kind), tmp_path / "journal", space=tiny)
    assert len({line["key"] for line in read(tmp_path / "journal")}) == 4
    said = [
        "After 4 sub-networks, 200 draws found no new one in the bin: few are left, and hard to find.",
        "The bin holds no further new sub-networks: the search ended after 4 candidates.",
    ]
    assert caplog.messages == said


@pytest.mark.parametrize("limit", [{}, {"evaluations": 40}], ids=str)
@pytest.mark.parametrize("kind", SEARCHES)
def test_nothing_is_said_of_a_search_that_ends_as_it_should(tmp_path, caplog, kind, limit):
    walk(configure(kind, limit=LimitConfig(**limit)), tmp_path / "journal")
    assert not caplog.messages


def test_given_scores_the_one_that_is_given(tmp_path):
    sub = SPACE.sample(np.random.default_rng(0))
    best = follow(configure("random"), Given(sub), tmp_path / "journal")
    assert best.subnetwork == sub
    (line,) = map(json.loads, (tmp_path / "journal").read_text().splitlines()[1:])
    assert line["parameters"] == parameters(TEACHER, sub) and line["blocks"] == BLOCKS
