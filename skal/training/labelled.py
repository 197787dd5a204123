"""Labelled images that a fit has seen, to be replayed by the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skal._validation import check_labels, check_sample_weight
from skal.images.inputs import Inputs, JoinedInputs


@dataclass(frozen=True)
class Labelled:
    """Labelled images, each known by its content.

    Parameters
    ----------
    inputs : Inputs
    y : ndarray of shape (n,)
    sample_weight : ndarray of shape (n,) or None, default=None
    """

    inputs: Inputs
    y: np.ndarray
    sample_weight: np.ndarray | None
    content: np.ndarray

    @classmethod
    def of(cls, inputs: Inputs, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Labelled:
        """Images with their labels; those of weight 0 are left out."""
        if sample_weight is not None and not sample_weight.all():
            rows = np.flatnonzero(sample_weight)
            inputs, y, sample_weight = JoinedInputs((inputs, rows)), y[rows], sample_weight[rows]
        names = [key.hex() for key in inputs.keys(range(len(inputs)))]
        return cls(inputs, y, sample_weight, np.array(names, dtype=str))

    @classmethod
    def checked(cls, estimator: Any, inputs: Inputs, y: Any, sample_weight: Any = None) -> Labelled:
        """Images with labels and weights as a user gave them; a ValueError says what is wrong with those."""
        labels = check_labels(estimator, inputs, y)
        return cls.of(inputs, labels, check_sample_weight(sample_weight, labels))

    @classmethod
    def none(cls, y: np.ndarray) -> Labelled:
        """No images; `y` tells of which kind labels would be."""
        return cls.of(JoinedInputs(), y[:0])

    def followed_by(self, new: Labelled) -> tuple[Labelled, np.ndarray]:
        """These images and new ones, and which of them are old; an image that is in both has its new label."""
        kept = np.flatnonzero(~np.isin(self.content, new.content))
        weights = None
        if self.sample_weight is not None or new.sample_weight is not None:
            weights = np.concatenate([self.weights[kept], new.weights])
        joined = Labelled(
            JoinedInputs((self.inputs, kept), (new.inputs, range(len(new.y)))),
            np.concatenate([self.y[kept], new.y]),
            weights,
            np.concatenate([self.content[kept], new.content]),
        )
        return joined, np.arange(len(joined.y)) < len(kept)

    @property
    def weights(self) -> np.ndarray:
        """Weight of each image, 1 where none was given."""
        return np.ones(len(self.y)) if self.sample_weight is None else self.sample_weight
