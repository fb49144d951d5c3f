"""A card for the tests of this folder, which has none."""

import os
import shutil

import fake_cuda
import pytest
import torch


@pytest.fixture
def cuda():
    """The device of fake CUDA tensors, which exist while the test runs."""
    if not torch.backends.cuda.is_built() and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("a build of PyTorch without CUDA needs a C++ compiler here")
    with fake_cuda.fake_cuda():
        yield torch.device("cuda")
