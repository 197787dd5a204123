"""Checkpoint files of trained suffixes: tensors as safetensors, everything else as text in the same file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skal._files import read_tensors, remove_stale, write_tensors

_KIND = "classifier"


def write_checkpoint(
    path: str | os.PathLike[str], state: Mapping[str, torch.Tensor], described: dict[str, Any]
) -> None:
    """Write tensors and a JSON-serialisable description, with a checksum of both.

    The file is replaced atomically: if the process is killed, the old file remains.

    Parameters
    ----------
    path : path
    state : dict of str to Tensor
    described : dict
    """
    remove_stale(os.path.dirname(os.path.abspath(path)))
    # Cloned because tied weights share memory, which the format forbids.
    write_tensors(path, _KIND, {name: tensor.detach().cpu().clone() for name, tensor in state.items()}, described)


def read_checkpoint(
    path: str | os.PathLike[str], required: Iterable[str] = ()
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file written by :func:`write_checkpoint`. No code from the file is executed.

    Parameters
    ----------
    path : path
    required : iterable of str, default=()
        Keys that the description must contain.

    Returns
    -------
    state : dict of str to Tensor
    described : dict

    Raises
    ------
    ValueError
        If the file is not a skal classifier, is damaged, or its description lacks a required key.
    """
    state, described = read_tensors(path, _KIND)
    lacking = [name for name in required if name not in described]
    if lacking:
        raise ValueError(f"{str(path)!r} is incomplete: {lacking} are missing from its description")
    return state, described


def load_models(models: Sequence[nn.Module], state: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Load the tensors of a file into models, in place; those of model i are named ``i.name``.

    Parameters
    ----------
    models : sequence of Module
    state : dict of str to Tensor
    path : path
        The file they come from, for error messages.

    Raises
    ------
    ValueError
        If tensors are missing, have a different shape, or belong to no model.
    """
    own = models_state(models)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unknown or reshaped:
        raise ValueError(
            f"{str(path)!r} does not match this network: missing tensors {missing}, unknown tensors "
            f"{unknown}, tensors of another shape {reshaped}"
        )
    for i, model in enumerate(models):
        model.load_state_dict({name: state[f"{i}.{name}"] for name in model.state_dict()})


def models_state(models: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """Tensors of models, named as :func:`load_models` expects."""
    return {f"{i}.{name}": value for i, model in enumerate(models) for name, value in model.state_dict().items()}
