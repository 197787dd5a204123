"""Activations of the rows of a training step, each from a random view: the image or its mirror image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from skal.features.prefix import Prefix
from skal.images.inputs import Inputs, JoinedInputs
from skal.training.crops import cropped


def _draw_views(n_views: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Index of the view used for each row."""
    return torch.randint(n_views, shape) if n_views > 1 else torch.zeros(shape, dtype=torch.int64)


def drawn(held: torch.Tensor, rows: Any) -> torch.Tensor:
    """Activations of rows, each from a random view, selected from the activations of all views and rows."""
    return held[_draw_views(len(held), np.shape(rows)), rows]


def read(prefix: Prefix, views: tuple[Inputs, ...], rows: Any) -> torch.Tensor:
    """Activations of rows, each from a random view, computed or read from the cache."""
    rows = np.atleast_1d(rows)
    view_of = _draw_views(len(views), rows.shape).numpy()
    of_views = JoinedInputs(*((view, rows[view_of == v]) for v, view in enumerate(views)))
    place = np.argsort(np.argsort(view_of, kind="stable"))
    silent = replace(prefix, verbose=False)  # no progress bar for each step
    return torch.cat([*silent.activations(of_views)])[place]


def drawn_and_cropped(load: Callable[[Any], torch.Tensor], rows: Any) -> torch.Tensor:
    return cropped(load(rows))
