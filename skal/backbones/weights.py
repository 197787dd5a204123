"""Weights from files, and errors for weights that cannot be loaded."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: ``"auto"``, None, the name of weights in a library, or a file.
Weights = str | os.PathLike[str] | None


def weights_file(weights: Weights) -> Path | None:
    """The file given by `weights`, or None if it is not a file.

    A string is a file if it has a suffix or contains a path separator.

    Raises
    ------
    ValueError
        If the file does not exist.
    """
    if weights is None or (isinstance(weights, str) and not Path(weights).suffix and os.sep not in weights):
        return None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(f"weights={str(weights)!r} does not exist; pass a state-dict file, 'auto' or None")
    return path


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """State dict from a ``.safetensors`` file or a file that ``torch.load(weights_only=True)`` reads.

    Raises
    ------
    ValueError
        If the file is damaged, cannot be read or contains something else; the message names it.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen exception types for damaged files
        raise ValueError(f"cannot read weights={str(path)!r}: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        held = f"a dict with the keys {list(state)[:5]}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise ValueError(f"weights={str(path)!r} is not a plain state dict: it holds {held}")
    return state


def with_weights(module: nn.Module, path: Path) -> nn.Module:
    """A copy of the module with the weights of a file.

    Raises
    ------
    ValueError
        If the file cannot be read or its tensors do not fit the module; the message names it.
    """
    state = read_state(path)
    module = copy.deepcopy(module)
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"weights={str(path)!r} do not fit the backbone: {error}") from error
    return module


class DownloadError(OSError):
    """Weights that could not be downloaded.

    Attributes
    ----------
    on_command_line : str
        The same message, with the command-line option instead of the argument.
    """

    on_command_line: str


def download_error(name: str, weights: str, origin: str | None, error: Exception) -> DownloadError:
    """The error for weights of a named network that a library could not download."""
    where = f" from {origin}" if origin else ""
    problem = f"cannot load the weights {weights!r} of {name!r}{where}: {type(error).__name__}: {error}"
    advice = f"{problem}. Download the file on a machine with internet access and pass it with"
    made = DownloadError(f"{advice} weights=FILE, or pass weights=None for random weights")
    made.on_command_line = f"{advice} --weights FILE"
    return made
