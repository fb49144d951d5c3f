"""The counter of benchmarks.gpu, on operators whose cost is known by hand."""

import pytest
import torch
from torch import nn

from benchmarks.roofline import Card, Counter

CARD = Card(bf16=1e12, fp32=1e11, bandwidth=1e9, of_matrix=0.5, of_bandwidth=0.5)


def counted(work, compiled=False):
    with Counter(CARD) as counter, counter.phase("work", compiled):
        result = work()
    assert result is not None
    return counter.phases["work"]


def test_a_product_takes_the_longer_of_arithmetic_and_memory(cuda):
    square, vector = (torch.ones(shape, dtype=torch.bfloat16, device=cuda) for shape in ((1000, 1000), (1000, 1)))
    cost = counted(lambda: square @ square)
    assert (cost.flops, cost.bytes) == (2e9, 6e6)
    assert cost.seconds == cost.matrix_seconds == pytest.approx(6e6 / 5e8), "memory"
    fast = Counter(Card())
    with fast:
        square @ square
    assert fast.total.seconds == pytest.approx(2e9 / (0.7 * 989e12)), "arithmetic"
    assert counted(lambda: square @ vector).bytes == 2e6 + 4e3


def test_elementwise_operators_move_what_they_read_and_write(cuda):
    x = torch.ones(100, 10, device=cuda)
    assert counted(lambda: x + x).bytes == 3 * 4_000
    assert counted(lambda: x.add_(1)).bytes == 2 * 4_000
    assert counted(lambda: x.t()[:5]).bytes == 0
    cast = counted(lambda: x.to(torch.bfloat16))
    assert cast.bytes == cast.cast_bytes == 4_000 + 2_000
    assert counted(lambda: x.logsumexp(1)).bytes == 6 * 4_000 + 400


def test_an_index_moves_only_its_rows(cuda):
    table, rows = torch.ones(1000, 10, device=cuda), torch.zeros(7, dtype=torch.long, device=cuda)
    assert counted(lambda: nn.functional.embedding(rows, table)).bytes == 7 * 8 + 2 * 7 * 10 * 4
    targets = torch.zeros(1000, dtype=torch.long, device=cuda)
    losses = counted(lambda: nn.functional.nll_loss(table, targets, reduction="none"))
    assert losses.bytes == 1000 * 8 + 2 * 1000 * 4


def test_a_compiled_region_reads_what_was_there_and_writes_what_lives(cuda):
    x, y = torch.ones(100, 10, device=cuda), torch.ones(100, 10, device=cuda)
    assert counted(lambda: (x * 2 + y).exp(), compiled=True).bytes == 3 * 4_000
    kept = []
    assert counted(lambda: kept.append(x * 2) or (kept[0] + y).exp(), compiled=True).bytes == 4 * 4_000


def test_a_long_row_is_read_again_after_each_reduction(cuda):
    size = 4 * 4 * 20_000
    x = torch.ones(4, 20_000, device=cuda)
    assert counted(lambda: x - x.logsumexp(1, keepdim=True), compiled=True).bytes == 3 * size
    short = torch.ones(4, 100, device=cuda)
    assert counted(lambda: short - short.logsumexp(1, keepdim=True), compiled=True).bytes == 2 * 4 * 400


def test_a_product_ends_a_compiled_region(cuda):
    x = torch.ones(10, 10, device=cuda)
    assert counted(lambda: (x * 2) @ x + 1, compiled=True).bytes == (2 + 3 + 2) * 400
