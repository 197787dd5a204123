"""Devices are found and checked before any work."""

import numpy as np
import pytest
import torch
from torch import nn

from skal import SourceProfile
from skal._device import find_device
from skal.selective import FilterBankDescriptor, SymmetricKLNeighbors


@pytest.fixture
def gpus(monkeypatch):
    """Sets the number of CUDA devices this machine appears to have."""

    def seem(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: False)

    return seem


def test_auto_takes_a_gpu_where_there_is_one(gpus):
    gpus(0)
    assert find_device("auto") == "cpu"
    gpus(2)
    assert find_device("auto") == "cuda"


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:1", torch.device("cuda:1")])
def test_devices_that_are_there_are_returned_by_name(gpus, device):
    gpus(2)
    assert find_device(device) == str(device)


@pytest.mark.parametrize(("count", "device"), [(0, "cuda"), (2, "cuda:2"), (2, "gpu"), (2, "meta"), (2, None), (0, 0)])
def test_other_devices_raise_with_those_available(gpus, count, device):
    gpus(count)
    available = r"\['cpu'\]" if count == 0 else r"\['cpu', 'cuda', 'cuda:0', 'cuda:1'\]"
    with pytest.raises(ValueError, match=f"device='{device}' is not available; use 'auto' or one of {available}"):
        find_device(device)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: SourceProfile(nn.Flatten(), device="cuda:9").fit(np.zeros((2, 2)), [0, 1]),
        lambda: FilterBankDescriptor(device="cuda:9").fit(np.zeros((2, 16, 16), dtype=np.uint8)),
        lambda: SymmetricKLNeighbors(1, device="cuda:9").fit(np.eye(2)),
    ],
)
def test_estimators_check_their_device_before_work(gpus, fit):
    gpus(0)
    with pytest.raises(ValueError, match="device='cuda:9' is not available"):
        fit()
