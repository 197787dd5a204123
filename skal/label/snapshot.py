"""The predictions of a model and the resulting queue. Replaced as a whole, and restored after a crash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Snapshot:
    """Predictions of one model and the questions that follow from them.

    Parameters
    ----------
    version : int
        Version of the model; 0 before there is one.
    n_labels : int
        Number of labels it was trained on.
    classes : list of str
    ids : list of str
        Images with predictions.
    proba : ndarray of shape (n_images, n_classes)
    queue : list of str
        Images to ask, best first.
    compared : dict of str to str
        Predictions of the last model that was compared with its predecessor.
    n_compared : int
        Number of labels that model was trained on.
    n_events : int
        Number of events in the log when it was trained. Classes renamed since are stored under their old names.
    explored : int
        1 if the strategy has chosen without labels from a first part of the images, 2 if from all of them.
    out : dict of str to str
        Images that were assigned when the queue was replaced, and why they are asked. They come before the queue.
    """

    version: int = 0
    n_labels: int = 0
    classes: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    proba: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    queue: list[str] = field(default_factory=list)
    compared: dict[str, str] = field(default_factory=dict)
    n_compared: int = 0
    n_events: int = 0
    explored: int = 0
    out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rows = {image: row for row, image in enumerate(self.ids)}

    def row(self, image: str) -> np.ndarray | None:
        """Class probabilities of an image."""
        row = self._rows.get(image)
        return None if row is None or not self.classes else self.proba[row]

    def predicted(self, image: str) -> tuple[str, float] | None:
        """The most probable class of an image and its probability."""
        proba = self.row(image)
        if proba is None:
            return None
        best = int(proba.argmax())
        return self.classes[best], float(proba[best])

    def probability(self, image: str, label: str) -> float | None:
        """Probability of a class for an image; None if the image or class is unknown."""
        row = self._rows.get(image)
        return None if row is None or label not in self.classes else float(self.proba[row, self.classes.index(label)])

    def predictions(self) -> dict[str, str]:
        """The most probable class of every image."""
        if not self.classes:
            return {}
        return dict(zip(self.ids, np.array(self.classes)[self.proba.argmax(axis=1)].tolist(), strict=True))

    def ranked(self, label: str) -> list[tuple[str, float]]:
        """Images predicted as a class with their probabilities, most confident first."""
        if label not in self.classes:
            return []
        column = self.classes.index(label)
        rows = np.flatnonzero(self.proba.argmax(axis=1) == column)
        rows = rows[np.argsort(-self.proba[rows, column], kind="stable")]
        return [(self.ids[row], float(self.proba[row, column])) for row in rows.tolist()]

    def rename(self, label: str, to: str) -> None:
        """Rename a class. If two classes then have the same name, their probabilities are added."""
        if label not in self.classes:
            return
        self.classes, self.proba = renamed(self.classes, self.proba, label, to)
        self.compared = {image: to if name == label else name for image, name in self.compared.items()}

    def follow(self, renames: Iterable[tuple[str, str]]) -> Snapshot:
        """Apply renames of classes, in order, that were made since the model was trained."""
        for label, to in renames:
            self.rename(label, to)
        return self

    def save(self, path: Path) -> None:
        """Write atomically: a reader sees either the old file or the complete new one."""
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.savez(
                file,
                numbers=np.array([self.version, self.n_labels, self.n_compared, self.n_events, self.explored]),
                classes=np.array(self.classes, dtype=str),
                ids=np.array(self.ids, dtype=str),
                proba=self.proba,
                queue=np.array(self.queue, dtype=str),
                compared=np.array(list(self.compared.items()), dtype=str).reshape(-1, 2),
                out=np.array(list(self.out.items()), dtype=str).reshape(-1, 2),
            )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """The saved snapshot, or an empty one if it is missing or damaged, since it can be recomputed."""
        try:
            with np.load(path, allow_pickle=False) as data:
                version, n_labels, n_compared, n_events, explored = data["numbers"].tolist()
                compared = dict(data["compared"].tolist())
                lists = [data[name].tolist() for name in ("classes", "ids", "queue")]
                further = {"compared": compared, "n_compared": n_compared, "n_events": n_events}
                further |= {"explored": explored, "out": dict(data["out"].tolist())}
                return cls(version, n_labels, lists[0], lists[1], data["proba"], lists[2], **further)
        except Exception:  # a damaged archive may raise anything
            return cls()


def renamed(classes: list[str], proba: np.ndarray, label: str, to: str) -> tuple[list[str], np.ndarray]:
    """Classes and their columns after a rename. If the new name is already a class, the two are merged."""
    if label not in classes or label == to:
        return classes, proba
    old = classes.index(label)
    if to not in classes:
        return [*classes[:old], to, *classes[old + 1 :]], proba
    merged = proba.copy()
    merged[:, classes.index(to)] += proba[:, old]
    return [*classes[:old], *classes[old + 1 :]], np.delete(merged, old, axis=1)
