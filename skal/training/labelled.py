"""Labelled images that a fit has used, kept for replay in the next fit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from skal._targets import check_labels, check_sample_weight
from skal.features.stored import KeyedInputs
from skal.images.inputs import Inputs, JoinedInputs, PathInputs


@dataclass(frozen=True)
class Labelled:
    """Labelled images, each identified by its content.

    Parameters
    ----------
    inputs : Inputs
    y : ndarray of shape (n,)
    sample_weight : ndarray of shape (n,) or None
    content : ndarray of shape (n,)
        Hash of each image's content, which is the same for a file that was touched or copied, and for a row given
        again. (Cache keys identify files by path and time instead, so that a pass over a pool need not read them.)
    """

    inputs: Inputs
    y: np.ndarray
    sample_weight: np.ndarray | None
    content: np.ndarray

    @classmethod
    def of(cls, inputs: Inputs, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Labelled:
        """Images with their labels; images of weight 0 are dropped."""
        if sample_weight is not None and not sample_weight.all():
            rows = np.flatnonzero(sample_weight)
            inputs, y, sample_weight = JoinedInputs((inputs, rows)), y[rows], sample_weight[rows]
        return cls(KeyedInputs(inputs), y, sample_weight, content_names(inputs))

    @classmethod
    def checked(cls, estimator: Any, inputs: Inputs, y: Any, sample_weight: Any = None) -> Labelled:
        """Images with labels and weights as the user gave them. Raises a ValueError if these are invalid."""
        labels = check_labels(estimator, inputs, y)
        return cls.of(inputs, labels, check_sample_weight(sample_weight, labels))

    @classmethod
    def none(cls, y: np.ndarray) -> Labelled:
        """No images; `y` gives the type of labels."""
        return cls.of(JoinedInputs(), y[:0])

    def followed_by(self, new: Labelled) -> tuple[Labelled, np.ndarray]:
        """These images followed by new ones, and which of them are old. An image in both gets its new label."""
        kept = self.not_in(new)
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

    def rows(self, chosen: np.ndarray) -> Labelled:
        """A selection of these images."""
        weights = None if self.sample_weight is None else self.sample_weight[chosen]
        return Labelled(JoinedInputs((self.inputs, chosen)), self.y[chosen], weights, self.content[chosen])

    def not_in(self, other: Labelled) -> np.ndarray:
        """Rows of the images that are not in `other`."""
        return np.flatnonzero(~np.isin(self.content, other.content))

    def corrected_by(self, new: Labelled) -> np.ndarray:
        """Classes whose images all have a different label in `new`: they were mistakes, such as a misspelt name."""
        return np.setdiff1d(self.y, np.concatenate([self.y[self.not_in(new)], new.y]))

    @property
    def weights(self) -> np.ndarray:
        """Weight of each image; 1 if none was given."""
        return np.ones(len(self.y)) if self.sample_weight is None else self.sample_weight


def content_names(inputs: Inputs) -> np.ndarray:
    """Hash of each image's content (n,), as text. The hash of a file depends only on its bytes, not on its path."""
    if isinstance(inputs, JoinedInputs):
        names = [content_names(part)[rows] for part, rows in inputs.runs(range(len(inputs)))]
        return np.concatenate(names) if names else np.array([], dtype=str)
    if isinstance(inputs, PathInputs):
        return np.array([_file_name(path) for path in inputs.paths], dtype=str)
    return np.array([key.hex() for key in inputs.keys(range(len(inputs)))], dtype=str)


def _file_name(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, "rb") as file:
            return str(xxhash.xxh3_128_hexdigest(file.read()))
    except OSError as error:
        raise ValueError(f"cannot read the image file {str(path)!r}: {error}") from error
