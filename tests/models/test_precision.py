"""Which arithmetic is taken, and what is refused where the processor would only emulate it."""

import pytest
import torch

from pipeline.config import Precision
from pipeline.errors import SprigError
from pipeline.models import precision
from pipeline.models.precision import resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", [Precision.bf16, Precision("bf16-mixed")])
def test_bf16_where_the_device_has_none(monkeypatch, wanted):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    with pytest.raises(SprigError, match=rf"precision={wanted.value}, but this cpu has no bf16: use precision=fp32"):
        resolve_precision(wanted, CPU)
    assert resolve_precision(Precision.auto, CPU) == resolve_precision(Precision.fp32, CPU) == "fp32"


def test_bf16_where_there_is_some(monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: True)
    assert resolve_precision(Precision.auto, CPU) == "bf16-mixed"
    assert [resolve_precision(each, CPU) for each in (Precision.fp32, Precision.bf16)] == ["fp32", "bf16"]
