"""The fake card itself: it lets through what a card would, and nothing else."""

import pytest
import torch
from torch import nn


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: there.addmm_(here, there),
        lambda here, there: torch.where(there > 0, there, here),
        lambda here, there: nn.functional.linear(there, here),
        lambda here, there: nn.functional.embedding(here[0].long(), there),
        lambda here, there: there.gather(1, here.long()),
        lambda here, there: here[there.long()],
        lambda here, there: nn.functional.scaled_dot_product_attention(*(x[None, None] for x in (there, there, here))),
    ],
)
def test_operators_that_mix_devices_fail(cuda, mixed):
    here, there = torch.ones(3, 3), torch.ones(3, 3, device=cuda)
    with pytest.raises(RuntimeError, match=r"same device|cuda.*cpu|cpu.*cuda"):
        mixed(here, there)
    assert mixed(here.to(cuda), there).device.type == "cuda"


def test_a_backward_pass_that_mixes_devices_fails(cuda):
    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.ones(3)

    weight = torch.ones(3, device=cuda, requires_grad=True)
    with pytest.raises(RuntimeError, match="same device"):
        Planted.apply(weight).sum().backward()


def test_gradients_and_autocast_are_those_of_a_card(cuda):
    weight = torch.ones(3, 3, device=cuda, requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        product = weight @ weight
        assert product.dtype == torch.bfloat16
    product.float().sum().backward()
    assert weight.grad.device.type == "cuda" and weight.grad.shape == (3, 3)


def test_the_cpu_keeps_its_values(cuda):
    assert (torch.arange(3) * 2).tolist() == [0, 2, 4]
    assert torch.ones(2, device=cuda).cpu().device.type == "cpu"


def test_afterwards_the_process_is_as_before():
    torch.ones(3, requires_grad=True).sum().backward()
    if not torch.backends.cuda.is_built():
        assert torch.accelerator.current_accelerator() is None
        with pytest.raises((RuntimeError, AssertionError), match="CUDA"):
            torch.ones(1, device="cuda")
