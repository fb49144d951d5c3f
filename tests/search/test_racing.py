"""Racing: who is stopped and who is not, what the strategy is told of it, and that off it is not there."""

import math

import numpy as np
import pytest
from scipy import stats
from toy import BLOCKS, LENGTH, TEACHER, configure, make_budget, walk

from pipeline.config import Fitness, RacingConfig, RerankConfig
from pipeline.errors import SprigError
from pipeline.search.fitness import fitness_of
from pipeline.search.forecast import scores
from pipeline.search.journal import Journal, read
from pipeline.search.loop import Search
from pipeline.search.racing import Race, least_difference
from pipeline.search.rerank import best_of
from pipeline.search.strategies.registry import make
from pipeline.subnetwork.counting import parameters

RACING = RacingConfig(enabled=True)
RACERS = ["evolution", "one_plus_lambda", "local", "random"]


def test_the_least_difference_is_that_of_a_least_squares_fit_with_the_correction_for_a_finite_population():
    """The error of a contrast of two candidates in the linear model loss = candidate + block, fitted without a closed
    form."""
    rng = np.random.default_rng(0)
    for count, known in ((2, 2), (5, 3), (12, 7)):
        losses = rng.normal(5, 1, (count, 1)) + rng.normal(0, 1, (1, known)) + rng.normal(0, 0.1, (count, known))
        rows, columns = np.indices(losses.shape)
        design = np.hstack([np.eye(count)[rows.ravel()], np.eye(known)[columns.ravel()][:, 1:]])
        residuals = losses.ravel() - design @ np.linalg.lstsq(design, losses.ravel())[0]
        freedom = losses.size - np.linalg.matrix_rank(design)
        contrast = np.eye(design.shape[1])[0] - np.eye(design.shape[1])[1]
        error = math.sqrt(residuals @ residuals / freedom * (contrast @ np.linalg.inv(design.T @ design) @ contrast))
        for confidence in (0.6, 0.9, 0.99):
            wanted = stats.t.ppf(confidence, freedom) * error * math.sqrt(1 - known / 20)
            assert least_difference(losses.tolist(), 20, confidence) == pytest.approx(wanted)


def test_wrong_comparisons_are_as_rare_as_the_confidence_says():
    """Of two candidates in a field of eight, the one in truth better by next to nothing seldom seems surely worse."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(2_000):
        field = rng.normal(0, 0.1, (8, 16)) + rng.normal(0, 1, 16)  # what all find hard, and what each does
        field -= field.mean(axis=1, keepdims=True)
        field[0] -= 1e-9
        excess = field[0, :4].mean() - field[1, :4].mean()
        wrong += excess > least_difference(field[:, :4].tolist(), 16, 0.95)
    assert 0.03 < wrong / 2_000 < 0.07


def levels(*names: str) -> dict[str, list[float]]:
    """Losses that differ by the same on every block: nothing is in doubt but who is level."""
    return {name: [place + block for block in (0.0, 5.0, 1.0)] for place, name in enumerate(names)}


def test_the_places_of_the_strategy_are_what_is_raced_for():
    for places, chosen in ((1, "a"), (2, "ab"), (5, "abcde"), (6, "abcdef")):
        race = Race(levels(*"abcdef"), [*"fedcba"], places, 8, 0.95)
        race.decide(3)
        assert race.running == [] and race.chosen == [*chosen]


def test_only_who_is_in_doubt_goes_on_and_the_last_time_the_better_ones_have_the_places():
    losses = levels(*"abcd")
    losses["b"], losses["c"] = [1.0, 6.1, 2.0], [1.0, 6.0, 2.2]
    race = Race(losses, [*"abcd"], 2, 4, 0.95)
    race.decide(3)
    assert race.chosen == ["a"] and race.running == ["b", "c"]
    losses["b"] += [9.0]
    losses["c"] += [8.0]
    race.decide(4, is_last=True)
    assert race.chosen == ["a", "c"] and race.running == []


def test_a_loss_that_is_not_finite_has_no_place():
    losses = levels(*"abc") | {"broken": [-9.0, -9.0, math.inf]}
    for places, chosen in ((2, ["a", "b"]), (4, ["a", "b", "c"])):
        race = Race(losses, ["broken", *"abc"], places, 8, 0.95)
        race.decide(2)
        assert race.running == [] and race.chosen == chosen
        assert race.estimates("a")["broken"] == math.inf
    race = Race(losses, ["broken"], 1, 8, 0.95)
    race.decide(2)
    assert race.chosen == [] and race.best(1) == ["broken"] and race.estimates("broken") == {"broken": math.inf}


def test_the_best_and_the_estimates_go_by_the_blocks_that_both_know():
    losses = {"long": [1.0, 3.0, 9.0, 9.0], "short": [0.5, 3.1], "out": [2.0, 5.0]}
    race = Race(losses, [*losses], 2, 4, 0.95)
    race.chosen = ["long", "short"]
    assert race.best(2) == ["short", "long"] and race.best(1) == ["short"]
    assert race.estimates("long") == pytest.approx({"long": 5.5, "short": 5.5 - 0.2, "out": 5.5 + 1.5})


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


def race(kind: str, path, seed: int = 0, lives: int | None = None, strategy=None, **changes):
    """(winner, tokens) of one search over the noisy landscape, of a `strategy` of its own or of one handed in."""
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
            strategy or make(config, SPACE, seed),
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
def test_a_race_is_cheaper_and_finds_the_best_of_its_candidates(tmp_path, kind):
    for seed in range(3):
        _, all_tokens = race(kind, tmp_path / f"plain{seed}", seed)
        raced, tokens = race(kind, tmp_path / f"raced{seed}", seed, racing=RACING)
        assert tokens < (1 if kind == "one_plus_lambda" else 0.5) * all_tokens  # which has a selection of its own
        lines = read(tmp_path / f"raced{seed}")
        # A race that went another way has other candidates than the plain search: its own are what it is to choose of.
        asked = [fitness_of(Fitness.perplexity, Noisy().losses(line["subnetwork"])) for line in lines]
        assert raced.fitness < 1.01 * min(asked)
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


def test_a_strategy_knows_what_a_later_race_found_out(tmp_path):
    from toy import SPACE

    corrected = 0
    for seed in range(3):
        evolution = make(configure("evolution", racing=RACING), SPACE, seed)
        race("evolution", tmp_path / str(seed), strategy=evolution, racing=RACING)
        lines = read(tmp_path / str(seed))
        for each in evolution.best:
            counts = [line["blocks"] for line in lines if line["key"] == each.subnetwork.key]
            if counts[-1] == BLOCKS:
                assert each.fitness == fitness_of(Fitness.perplexity, Noisy().losses(each.subnetwork))
                corrected += len(counts) > 1
    assert corrected


def test_a_winner_whose_later_losses_are_not_finite_spoils_nobody_elses_estimate(tmp_path, monkeypatch):
    from toy import SPACE

    honest = Noisy.losses

    def tempting(self, sub) -> list[float]:
        """One of five is by far the best, but for its last block."""
        losses = honest(self, sub)
        return losses if int(sub.key, 16) % 5 else [loss - 5 for loss in losses[:-1]] + [math.inf]

    monkeypatch.setattr(Noisy, "losses", tempting)
    evolution = make(configure("evolution", racing=RACING), SPACE, 0)
    told, tell = [], evolution.tell

    def heard(scored) -> None:
        told.extend((int(each.subnetwork.key, 16) % 5, each.fitness) for each in scored)
        tell(scored)

    monkeypatch.setattr(evolution, "tell", heard)
    race("evolution", tmp_path / "journal", strategy=evolution, racing=RACING)
    assert math.inf in [line["fitness"] for line in read(tmp_path / "journal")]
    assert all(math.isfinite(fitness) for is_honest, fitness in told if is_honest)


def test_as_many_as_a_rerank_takes_are_known_on_all_blocks(tmp_path):
    race("evolution", tmp_path / "journal", racing=RACING, rerank=RerankConfig(candidates=3))
    assert len(best_of(tmp_path / "journal", BLOCKS, 3)) == 3


def test_what_racing_cannot_be(tmp_path):
    for changes, said in (
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
