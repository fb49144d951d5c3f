import pytest
import torch

from pipeline.training.throughput import Flops, peak_flops


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_of_known_devices_alone(name, peak):
    assert peak_flops(name) == peak


def test_utilisation_is_of_all_ranks_and_counts_the_teacher(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-PCIE-40GB")
    # 2 devices that do 39e12 of 312e12 FLOP/s each.
    assert Flops(6_000_000, 1_800_000).utilisation(1e7, 2, torch.device("cuda")) == pytest.approx(0.125)


def test_a_cpu_has_no_known_peak():
    assert Flops(1).utilisation(1.0, 1, torch.device("cpu")) is None
