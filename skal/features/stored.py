"""Inputs with stored activations or stored keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from skal.images.inputs import Inputs
from skal.images.transform import ImageTransform


class StoredActivations:
    """Images of which only the activations at a cut are available, such as those in the file of a saved classifier.

    Parameters
    ----------
    rows : Tensor of shape (n, ...)
        Activations.
    names : sequence of bytes
        Key of each image.
    mirror_images : Tensor of shape (n, ...) or None, default=None
        Activations of the mirror images, if they were stored.
    """

    def __init__(self, rows: torch.Tensor, names: Sequence[bytes], mirror_images: torch.Tensor | None = None):
        self.rows = rows
        self.names = list(names)
        self.mirror_images = mirror_images

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return [self.names[i] for i in rows]

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        raise ValueError(
            "a loaded classifier contains activations of its labelled images, but not the images themselves"
        )

    def mirrored(self) -> StoredActivations:
        """The mirror images."""
        if self.mirror_images is None:
            raise ValueError("the loaded classifier was saved without activations of mirror images")
        return StoredActivations(self.mirror_images, self.names, self.rows)

    def with_transform(self, transform: ImageTransform | None) -> StoredActivations:
        return self


class KeyedInputs:
    """Inputs whose keys are computed once, so that cached activations are found even if a file is moved or deleted.

    Parameters
    ----------
    inputs : Inputs
    """

    def __init__(self, inputs: Inputs):
        self.inputs = inputs
        self.names = inputs.keys(range(len(inputs)))

    def __len__(self) -> int:
        return len(self.inputs)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return [self.names[i] for i in rows]

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return self.inputs.load(rows)

    def with_transform(self, transform: ImageTransform | None) -> Inputs:
        return self.inputs.with_transform(transform)
