"""Racing: who is stopped and who is not, what the strategy is told of it, and that off it is not there."""

import math

import numpy as np
import pytest
from scipy import stats
from toy import BLOCKS, LENGTH, TEACHER, configure, make_budget, walk

from pipeline.config import Fitness, RacingConfig
from pipeline.errors import SprigError
from pipeline.search.fitness import fitness_of
from pipeline.search.journal import Journal, read
from pipeline.search.loop import Search
from pipeline.search.racing import Race, is_beaten
from pipeline.search.strategies.registry import make, scores
from pipeline.subnetwork.counting import parameters

RACING = RacingConfig(enabled=True)
RACERS = ["evolution", "one_plus_lambda", "regularized_evolution", "local", "random"]


def test_the_doubt_is_that_of_a_paired_t_test_with_the_correction_for_a_finite_population():
    rng = np.random.default_rng(0)
    for known in (2, 5, 19):
        mine, theirs = rng.normal(5.1, 1, known).tolist(), rng.normal(5, 1, known).tolist()
        statistic = stats.ttest_rel(mine, theirs).statistic / math.sqrt(1 - known / 20)
        for confidence in (0.6, 0.9, 0.99):
            wanted = statistic > stats.t.ppf(confidence, known - 1)
            assert is_beaten(mine, theirs, 20, confidence) == wanted


def test_what_is_known_on_all_blocks_is_in_no_doubt():
    assert is_beaten([1.0, 2.0, 3.1], [1.0, 2.0, 3.0], 3, 0.99)
    assert not is_beaten([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 3, 0.99)


def test_a_loss_that_is_not_finite_is_beaten_at_once_by_a_finite_one_alone():
    assert is_beaten([math.inf, 1.0], [5.0, 5.0], 8, 0.99)
    assert not is_beaten([math.inf, 1.0], [1.0, math.inf], 8, 0.99)
    assert not is_beaten([1.0, 1.0], [1.0, math.inf], 8, 0.99)


def test_wrong_stops_are_as_rare_as_the_confidence_says():
    """Of candidates that are in truth better by next to nothing, one comparison stops about 1 - confidence."""
    rng = np.random.default_rng(1)
    stopped = 0
    for _ in range(2_000):
        block = rng.normal(0, 1, 16)  # what both find hard
        mine, theirs = (block + rng.normal(0, 0.1, 16) for _ in range(2))
        mine -= mine.mean() - theirs.mean() + 1e-9
        stopped += is_beaten(mine[:4].tolist(), theirs[:4].tolist(), 16, 0.95)
    assert 0.02 < stopped / 2_000 < 0.06


def test_the_places_of_the_strategy_are_what_is_raced_for():
    losses = {name: [level, level + 1.0, level + 2.0] for name, level in zip("abcdef", range(6), strict=True)}
    assert Race(losses, [], 2, 8, 0.95).stop([*"abcdef"], 3) == ["a", "b"]
    assert Race(losses, [], 6, 8, 0.95).stop([*"abcdef"], 3) == [*"abcdef"]
    assert Race(losses, ["a", "c"], 2, 8, 0.95).stop([*"bdef"], 3) == ["b"]


def test_who_was_stopped_is_told_behind_who_stopped_it():
    """The rival's loss on all blocks plus the difference on those that both know, also where the rival fell later."""
    losses = {"best": [1.0, 3.0], "rival": [2.0, 4.2], "first": [9.0, 11.3]}
    race = Race(losses, [], 2, 4, 0.95)
    assert race.stop([*losses], 2) == ["best", "rival"]
    race.places = 1
    losses["best"] += [2.0]
    losses["rival"] += [3.1]
    assert race.stop(["best", "rival"], 3) == ["best"]
    losses["best"] += [0.0]
    told = race.told()
    assert told["rival"] == pytest.approx(1.5 + (9.3 - 6.0) / 3)
    assert told["first"] == pytest.approx(told["rival"] + (20.3 - 6.2) / 2)


class Noisy:
    """Every candidate has its own level; blocks are hard or easy for all alike, with a little noise for each."""

    def __init__(self):
        self.tokens = 0

    def losses(self, sub) -> list[float]:
        level = sum(gene.intermediate_size / (1 + layer) for layer, gene in zip(sub.layers, sub.genes, strict=True))
        rng = np.random.default_rng(int(sub.key, 16))
        return (8 - level / 40 + np.linspace(-1, 1, BLOCKS) + rng.normal(0, 0.02, BLOCKS)).tolist()

    def run(self, tasks):
        for number, task in reversed(list(enumerate(tasks))):  # any order will do
            self.tokens += (task.last - task.first) * LENGTH
            yield number, self.losses(task.subnetwork)[task.first : task.last]


def race(kind: str, path, seed: int = 0, lives: int | None = None, **changes):
    """(winner, tokens) of one search over the noisy landscape."""
    from toy import SPACE

    config, scorer = configure(kind, **changes), Noisy()
    journal, budget = Journal(path, "abc"), make_budget(config.limit)
    lines = 0

    def log(line):
        nonlocal lines
        lines += 1
        if lines == lives:
            raise KeyboardInterrupt

    try:
        best = Search(
            config,
            make(config, SPACE, seed),
            scorer,
            journal,
            budget,
            parameters=lambda sub: parameters(TEACHER, sub),
            expected=sum(scores(config).values()),
            log=log,
        ).run()
    finally:
        journal.close()
    return best, budget.spent.tokens


@pytest.mark.parametrize("kind", RACERS)
def test_a_race_is_cheaper_and_finds_as_good_a_candidate(tmp_path, kind):
    for seed in range(3):
        plain, all_tokens = race(kind, tmp_path / f"plain{seed}", seed)
        raced, tokens = race(kind, tmp_path / f"raced{seed}", seed, racing=RACING)
        assert tokens < 0.95 * all_tokens
        assert raced.fitness < 1.01 * plain.fitness
        lines = read(tmp_path / f"raced{seed}")
        assert sum(len(line["losses"]) for line in lines) * LENGTH == tokens
        whole = [line for line in lines if line["blocks"] == BLOCKS]
        assert raced.fitness == min(line["fitness"] for line in whole)
        for line in whole:
            losses = [loss for each in lines if each["key"] == line["key"] for loss in each["losses"]]
            assert losses == Noisy().losses(line["subnetwork"])
            assert line["fitness"] == fitness_of(Fitness.perplexity, losses)


@pytest.mark.parametrize("kind", RACERS)
def test_a_killed_race_goes_on_to_the_same_journal(tmp_path, kind):
    whole = race(kind, tmp_path / "whole", racing=RACING)
    for lives in (1, 7, 13, 20):
        with pytest.raises(KeyboardInterrupt):
            race(kind, tmp_path / "killed", lives=lives, racing=RACING)
    assert race(kind, tmp_path / "killed", racing=RACING) == whole
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_racing_cannot_be(tmp_path):
    for changes, said in (
        ({"confidence": 1.0}, r"search.racing.confidence=1.0 must lie above 0.5 and below 1"),
        ({"blocks": [0.5, 0.25]}, r"search.racing.blocks=\[0.5, 0.25\] must be growing shares"),
        ({"blocks": []}, "must be growing shares"),
    ):
        with pytest.raises(SprigError, match=said):
            RacingConfig(**changes)
    with pytest.raises(SprigError, match=r"all search\.blocks=2: raise it above 2"):
        configure("random", racing=RACING, blocks=2)


def test_racing_off_scores_all_on_all_blocks(tmp_path):
    walk(configure("evolution"), tmp_path / "journal")
    assert {line["blocks"] for line in read(tmp_path / "journal")} == {BLOCKS}
