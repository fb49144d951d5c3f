"""The values that a dimension may take, and the configurations that leave none."""

from dataclasses import replace

import pytest
from architectures import PYTHIA_6_9B, SMOLLM2_135M, TOY

from pipeline.config import Sizes, SpaceConfig
from pipeline.errors import SprigError
from pipeline.subnetwork.grids import make_grids


def test_default_steps():
    grids = make_grids(SMOLLM2_135M, SpaceConfig())
    assert grids["n_layer"] == list(range(1, 31))
    assert grids["n_embd"] == list(range(64, 577, 64))
    assert grids["n_query_groups"] == grids["heads_per_group"] == [1, 2, 3]
    assert grids["head_size"] == list(range(8, 65, 8))
    assert grids["intermediate_size"] == list(range(64, 1537, 64))


def test_a_tiny_teacher_still_has_choices():
    grids = make_grids(TOY, SpaceConfig())
    assert grids["n_embd"] == [2, 4, 6, 8]
    assert grids["head_size"] == [2, 4]
    assert grids["intermediate_size"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("head_size", "expected"), [(128, range(8, 129, 8)), (80, range(8, 81, 8)), (16, (8, 16))])
def test_head_sizes_keep_whole_rotary_pairs(head_size, expected):
    pythia = replace(PYTHIA_6_9B, head_size=head_size)
    assert make_grids(pythia, SpaceConfig())["head_size"] == list(expected)


def test_the_teachers_size_is_always_a_choice_unless_max_forbids_it():
    step = Sizes(n_embd=100)
    assert make_grids(SMOLLM2_135M, SpaceConfig(step=step))["n_embd"] == [100, 200, 300, 400, 500, 576]
    bounded = SpaceConfig(step=step, min=Sizes(n_embd=150), max=Sizes(n_embd=450))
    assert make_grids(SMOLLM2_135M, bounded)["n_embd"] == [200, 300, 400]


def test_held_dimensions_stay_at_the_teachers_size():
    grids = make_grids(SMOLLM2_135M, SpaceConfig(hold=["n_embd", "head_size"]))
    assert (grids["n_embd"], grids["head_size"]) == ([576], [64])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max": Sizes(n_embd=1000)}, r"space\.max\.n_embd=1000 exceeds teacher smollm2-135m's n_embd=576"),
        ({"min": Sizes(n_layer=31)}, r"space\.min\.n_layer=31 exceeds teacher smollm2-135m's n_layer=30"),
        ({"step": Sizes(intermediate_size=2000)}, r"space\.step\.intermediate_size=2000 exceeds"),
        ({"step": Sizes(head_size=3)}, r"space\.step\.head_size=3 would break rotary pairs: .* multiple of 2"),
        ({"min": Sizes(n_embd=100), "max": Sizes(n_embd=120)}, r"min\.n_embd=100 and .*max\.n_embd=120 leave no"),
        ({"min": Sizes(n_layer=9), "max": Sizes(n_layer=8)}, r"min\.n_layer=9 and space\.max\.n_layer=8 leave no"),
        ({"hold": ["n_embd"], "max": Sizes(n_embd=320)}, r"space\.hold names n_embd, but space\.max\.n_embd=320"),
    ],
)
def test_impossible_grids_name_dimension_and_values(config, message):
    with pytest.raises(SprigError, match=message):
        make_grids(SMOLLM2_135M, SpaceConfig(**config))
