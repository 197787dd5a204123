"""Weights from files: what is read, and errors that name the file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from skal.backbones.weights import read_state, weights_file, with_weights

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


@pytest.fixture(params=[".pth", ".safetensors"])
def saved(request, tmp_path):
    path = tmp_path / f"weights{request.param}"
    (torch.save if request.param == ".pth" else save_file)(STATE, path)
    return path


def test_a_state_dict_is_read_and_loaded_into_a_copy(saved):
    torch.testing.assert_close(read_state(saved), STATE)
    layer = nn.utils.skip_init(nn.Linear, 3, 2)
    nn.init.zeros_(layer.weight)
    loaded = with_weights(layer, saved)
    torch.testing.assert_close(loaded.state_dict(), STATE, check_device=False)
    assert not layer.weight.any()


@pytest.mark.parametrize("damage", ["cut", "zeroed", "empty"])
def test_a_damaged_file_raises_an_error_that_names_it(saved, damage):
    content = saved.read_bytes()
    half = len(content) // 2
    damaged = {"cut": content[:half], "zeroed": bytes(half) + content[half:], "empty": b""}
    saved.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=f"cannot read weights='.*weights{saved.suffix}'"):
        read_state(saved)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"state_dict": STATE}, r"a dict with the keys \['state_dict'\]"),
        ([torch.ones(2)], "a list"),
    ],
)
def test_a_file_that_holds_something_else_says_what(tmp_path, content, held):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth' is not a plain state dict: it holds {held}"):
        read_state(tmp_path / "other.pth")


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    torch.save(nn.Flatten(), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"cannot read weights='.*module\.pth'"):
        read_state(tmp_path / "module.pth")


def test_weights_of_another_network_do_not_fit(saved):
    with pytest.raises(ValueError, match=r"weights='.*weights.*' do not fit the backbone"):
        with_weights(nn.utils.skip_init(nn.Linear, 4, 2), saved)


def test_a_name_is_told_from_a_file(saved, monkeypatch):
    assert weights_file("auto") is weights_file(None) is weights_file("IMAGENET1K_V1") is None
    assert weights_file(str(saved)) == saved
    monkeypatch.setenv("HOME", str(saved.parent))
    assert weights_file(f"~/{saved.name}") == saved
    for missing in ("nowhere.pth", Path("nowhere"), saved.parent):
        with pytest.raises(ValueError, match="does not exist; pass a state-dict file, 'auto' or None"):
            weights_file(missing)
