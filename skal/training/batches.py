"""Batches for training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler


class BatchLoader(DataLoader):
    """Fetches a whole batch with one indexing operation, in random order or by given probabilities."""

    def __init__(self, dataset: Any, batch_size: int, share_of: np.ndarray | None = None, **kwargs: Any):
        order: Sampler[int] = RandomSampler(dataset)
        if share_of is not None:
            # Rows are drawn with replacement, so every batch can be full: a last batch of three images is a noisy step.
            lacking = -len(dataset) % batch_size if len(dataset) > batch_size else 0
            order = WeightedRandomSampler(share_of.tolist(), len(dataset) + lacking)
        # Batch normalisation cannot compute statistics from a batch of one.
        batches = BatchSampler(
            order, batch_size, drop_last=len(dataset) > batch_size and len(dataset) % batch_size == 1
        )
        super().__init__(_Seeded(dataset), sampler=_WithSeeds(batches), batch_size=None, **kwargs)


class _WithSeeds(Sampler):
    """Batches of rows, each with a seed for what is drawn when it is loaded."""

    def __init__(self, batches: BatchSampler):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        generator = torch.Generator().manual_seed(_seed())
        for rows in self.batches:
            yield rows, _seed(generator)


class _Seeded(Dataset):
    """Loads batches with their seeds, so that any number of worker processes draws the same."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, batch: tuple[list[int], int]) -> Any:
        rows, seed = batch
        with torch.random.fork_rng(devices=[]):  # unlike `seeded`, without GPUs, which workers cannot use
            torch.default_generator.manual_seed(seed)
            return self.dataset[rows]


def _seed(generator: torch.Generator | None = None) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator))


class LabelledRows(Dataset):
    """Labelled images as activations at the cut, with their targets.

    Parameters
    ----------
    load : callable
        Maps an array of rows to activations. Called each time rows are drawn.
    targets : Tensor of shape (n,)
        Output of the head for each row.
    weights : Tensor of shape (n,) or None, default=None
    plain : callable or None, default=None
        Like `load`, but always for the images themselves: neither mirrored nor augmented. None uses `load`.

    Returns
    -------
    batch : tuple (activations, labels)
        Labels are the targets, or a dict of ``target`` and ``weight`` if rows have weights.
    """

    def __init__(
        self,
        load: Callable[[Any], torch.Tensor],
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
        plain: Callable[[Any], torch.Tensor] | None = None,
    ):
        self.load = load
        self.targets = targets
        self.weights = weights
        self.plain = plain or load

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, Any]:
        drawn = np.arange(len(self))[rows]
        activations = self.load(drawn) if drawn.ndim else self.load(drawn[None])[0]
        if self.weights is None:
            return activations, self.targets[rows]
        return activations, {"target": self.targets[rows], "weight": self.weights[rows]}


def without_augmentation(dataset: Any) -> Any:
    """The same rows, neither mirrored nor augmented; other data sets are returned unchanged."""
    if isinstance(dataset, LabelledRows):
        return LabelledRows(dataset.plain, dataset.targets, dataset.weights)
    return dataset


def replay_shares(is_old: np.ndarray, replay: float) -> np.ndarray | None:
    """Probability with which each image is drawn, so that old images make up a share `replay` of each step.

    None if all images are old or all are new, so that there is nothing to balance.

    Examples
    --------
    >>> replay_shares(np.array([True, True, False]), 0.9)
    array([0.45, 0.45, 0.1 ])
    """
    n_old = int(is_old.sum())
    if n_old in (0, len(is_old)):
        return None
    return np.where(is_old, replay / n_old, (1 - replay) / (len(is_old) - n_old))
