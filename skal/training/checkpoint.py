"""A trained classifier as a file: its tensors in safetensors, the rest as plain text beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from skal.training.suffix import Suffix

_FORMAT = "skal.FrozenPrefixClassifier 1"


def write_checkpoint(path: str | os.PathLike[str], models: Sequence[Suffix], described: dict[str, Any]) -> None:
    """Write models that predict together, and a description that JSON can hold.

    Parameters
    ----------
    path : path
    models : sequence of Suffix
    described : dict
    """
    tensors = {
        f"{i}.{name}": tensor.cpu().clone().contiguous()
        for i, model in enumerate(models)
        for name, tensor in model.state_dict().items()
    }
    described = {"format": _FORMAT, "n_models": len(models), "normalize": models[-1].normalize, **described}
    save_file(tensors, path, metadata={"skal": json.dumps(described)})


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote; runs no code from the file.

    Returns
    -------
    state : dict of str to Tensor
        Tensors of all models, each named after its model's number.
    described : dict

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


def load_models(models: Sequence[Suffix], state: dict[str, torch.Tensor]) -> None:
    """Give models the tensors that :func:`read_checkpoint` read, in place."""
    for i, model in enumerate(models):
        prefix = f"{i}."
        model.load_state_dict(
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        )
