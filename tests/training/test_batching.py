"""Batch algebra: every layout of ranks and micro-batches is the same global batch, or is refused in one sentence."""

import numpy as np
import pytest
from tiny_training import settings

from pipeline.errors import SprigError
from pipeline.training.engine import batching


@pytest.mark.parametrize(
    "batch, micro, ranks, message",
    [
        (8, 3, 1, r"global_batch=8, distill.micro_batch=3 and 1 process do .* multiple of 3 x 1 = 3; .* is 6"),
        (8, 8, 2, r"would take 16 blocks: set distill.micro_batch=4\.$"),
        (8, 8, 3, r"would take 24 blocks: set distill.global_batch=6 and distill.micro_batch=2\.$"),
        (2, 1, 3, r"would take 3 blocks: use fewer processes"),
    ],
)
def test_batches_that_do_not_divide(batch, micro, ranks, message):
    with pytest.raises(SprigError, match=message):
        batching(settings(global_batch=batch, micro_batch=micro), ranks)


@pytest.mark.parametrize("ranks, micro", [(1, 12), (2, 3), (3, 2), (4, 1)])
def test_every_layout_sees_the_same_global_batch(ranks, micro):
    numbers = np.arange(100, 112)
    layout = batching(settings(global_batch=12, micro_batch=micro), ranks)
    shares = [layout.share(numbers, rank) for rank in range(ranks)]
    assert all(len(part) == micro for share in shares for part in share)
    assert sorted(np.concatenate([part for share in shares for part in share])) == list(numbers)
