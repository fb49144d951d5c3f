"""A card for the tests of this folder, which has none."""

import os
import shutil

import pytest
import torch

from benchmarks.fake_cuda import fake_cuda


@pytest.fixture
def cuda():
    """The device of fake CUDA tensors, which exist while the test runs."""
    if not torch.backends.cuda.is_built() and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("a build of PyTorch without CUDA needs a C++ compiler here")
    with fake_cuda():
        yield torch.device("cuda")
