"""The surrogate against ridge regression by numpy's least squares, every left-out point fitted again."""

import math

import numpy as np
from test_strategies import SEPARABLE, distance
from toy import SPACE, TEACHER, configure, walk

from pipeline.search.journal import read
from pipeline.search.strategies.protocol import Scored
from pipeline.search.strategies.surrogate import RIDGES, features, most_promising, predict


def fitted(known, values, ridge, asked):
    """Ridge with a free constant, on the stacked system."""
    penalty = np.sqrt(ridge) * np.eye(known.shape[1])
    left = np.block([[known, np.ones((len(known), 1))], [penalty, np.zeros((len(penalty), 1))]])
    solution = np.linalg.lstsq(left, np.concatenate([values, np.zeros(len(penalty))]), rcond=None)[0]
    return np.column_stack([asked, np.ones(len(asked))]) @ solution


def test_predictions_are_those_of_the_ridge_that_errs_least_on_left_out_points():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(12, 20)) * 3 + 1, rng.normal(size=(5, 20))
    known[:, 7] = 4.0  # never varies
    values = known[:, 0] - 2 * known[:, 3] + rng.normal(size=12)
    varies = np.arange(20) != 7
    mean, spread = known[:, varies].mean(0), known[:, varies].std(0)
    x, z = (known[:, varies] - mean) / spread, (asked[:, varies] - mean) / spread

    def error(ridge):
        left_out = [
            values[at] - fitted(np.delete(x, at, 0), np.delete(values, at), ridge, x[at : at + 1])[0]
            for at in range(12)
        ]
        return sum(each**2 for each in left_out)

    ridge = min(RIDGES, key=error)
    np.testing.assert_allclose(predict(known, values, asked), fitted(x, values, ridge, z), rtol=1e-8)


def test_features_tell_the_layers_apart():
    rng = np.random.default_rng(1)
    subs = {SPACE.sample(rng) for _ in range(30)}
    assert len({tuple(features(TEACHER, sub)) for sub in subs}) == len(subs)


def test_the_most_promising_come_first_and_failures_teach_nothing():
    rng = np.random.default_rng(2)
    subs = list({SEPARABLE.sample(rng): None for _ in range(60)})
    known = [Scored(sub, 1 + distance(sub)) for sub in subs[:40]]
    chosen = most_promising(TEACHER, [*known, Scored(subs[40], math.inf)], subs[40:], 5)
    assert chosen == most_promising(TEACHER, known, subs[40:], 5) and len(set(chosen)) == 5
    assert np.mean([*map(distance, chosen)]) < np.mean([*map(distance, subs[40:])])
    assert most_promising(TEACHER, known[:1], subs[40:], 5) == subs[40:45]


def test_it_finds_better_ones_with_as_many_evaluations(tmp_path):
    def best(kind, seed):
        walk(configure(kind), tmp_path / f"{kind}{seed}", lambda sub: 1 + distance(sub), SEPARABLE, seed)
        return min(line["fitness"] for line in read(tmp_path / f"{kind}{seed}"))

    assert sum(best("surrogate", seed) < best("evolution", seed) for seed in range(3)) >= 2
