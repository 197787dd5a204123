"""A trained suffix as a file: its tensors in safetensors, the rest as plain text beside them."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_FORMAT = "skal.FrozenPrefixClassifier 1"


def write_checkpoint(path: str | os.PathLike[str], state: dict[str, torch.Tensor], described: dict[str, Any]) -> None:
    """Write tensors and a description that JSON can hold.

    Parameters
    ----------
    path : path
    state : dict of str to Tensor
    described : dict
    """
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"skal": json.dumps({"format": _FORMAT, **described})})


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote; runs no code from the file.

    Raises
    ------
    ValueError
        If the file is no classifier of skal's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get("skal", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator of its own)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no classifier written by skal, or is damaged: {error}") from error
    if described.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} is no classifier written by skal")
    return state, described
