"""Bins round inward, from the decimals that were written."""

import pytest

from pipeline.config import BinConfig, Count
from pipeline.errors import SprigError
from pipeline.subnetwork.bins import Bin, make_bin


@pytest.mark.parametrize(
    ("center", "tolerance", "low", "high"),
    [
        (405_334_016, 0.05, 385_067_316, 425_600_716),
        (100, 0.1, 90, 110),  # 100 * (1 + 0.1) is 110.00000000000001 in binary
        (1000, 0.07, 930, 1070),
        (10**12, 0.1, 9 * 10**11, 11 * 10**11),
        (7, 0.05, 7, 7),
        (100, 0.0, 100, 100),
    ],
)
def test_rounded_inward(center, tolerance, low, high):
    assert make_bin(BinConfig(center=center, tolerance=tolerance)) == Bin(center, low, high, "total")


def test_edges_belong_to_the_bin():
    found = make_bin(BinConfig(low=10, high=20, count=Count.non_embedding))
    assert [n for n in range(30) if found.contains(n)] == list(range(10, 21))
    assert (found.center, found.count) == (15, "non_embedding")


def test_crossed_edges_are_named():
    with pytest.raises(SprigError, match=r"bin\.low=2,000 exceeds bin\.high=1,000"):
        make_bin(BinConfig(low=2000, high=1000))
