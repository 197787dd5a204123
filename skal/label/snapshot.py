"""What a model said about the images, and the queue made from it: swapped as a whole, and found again after a crash."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Snapshot:
    """Predictions of one model and the questions that follow from them.

    Parameters
    ----------
    version : int
        Of the model; 0 before there is one.
    n_labels : int
        It was trained on.
    classes : list of str
    ids : list of str
        Images that are predicted.
    proba : ndarray of shape (n_images, n_classes)
    queue : list of str
        Images to ask, the best first.
    compared : dict of str to str
        Predictions of the last model that was compared with the one before.
    n_compared : int
        Labels it was trained on.
    """

    version: int = 0
    n_labels: int = 0
    classes: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    proba: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    queue: list[str] = field(default_factory=list)
    compared: dict[str, str] = field(default_factory=dict)
    n_compared: int = 0

    def __post_init__(self) -> None:
        self._rows = {image: row for row, image in enumerate(self.ids)}

    def predicted(self, image: str) -> tuple[str, float] | None:
        """The most probable class of an image and its probability."""
        row = self._rows.get(image)
        if row is None or not self.classes:
            return None
        best = int(self.proba[row].argmax())
        return self.classes[best], float(self.proba[row, best])

    def probability(self, image: str, label: str) -> float | None:
        """Of a class; None where image or class is unknown."""
        row = self._rows.get(image)
        return None if row is None or label not in self.classes else float(self.proba[row, self.classes.index(label)])

    def predictions(self) -> dict[str, str]:
        """The most probable class of every image."""
        if not self.classes:
            return {}
        return dict(zip(self.ids, np.array(self.classes)[self.proba.argmax(axis=1)].tolist(), strict=True))

    def ranked(self, label: str) -> list[tuple[str, float]]:
        """Images predicted as a class with their probabilities, the surest first."""
        if label not in self.classes:
            return []
        column = self.classes.index(label)
        rows = np.flatnonzero(self.proba.argmax(axis=1) == column)
        rows = rows[np.argsort(-self.proba[rows, column], kind="stable")]
        return [(self.ids[row], float(self.proba[row, column])) for row in rows.tolist()]

    def rename(self, label: str, to: str) -> None:
        """Give a class another name; of two with the same name the probabilities are added."""
        if label not in self.classes:
            return
        old = self.classes.index(label)
        if to in self.classes:
            self.proba[:, self.classes.index(to)] += self.proba[:, old]
            self.proba = np.delete(self.proba, old, axis=1)
            del self.classes[old]
        else:
            self.classes[old] = to
        self.compared = {image: to if name == label else name for image, name in self.compared.items()}

    def save(self, path: Path) -> None:
        """Write it so that a reader sees the old file or the whole new one."""
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.savez(
                file,
                numbers=np.array([self.version, self.n_labels, self.n_compared]),
                classes=np.array(self.classes, dtype=str),
                ids=np.array(self.ids, dtype=str),
                proba=self.proba,
                queue=np.array(self.queue, dtype=str),
                compared=np.array(list(self.compared.items()), dtype=str).reshape(-1, 2),
            )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """What was saved; a fresh one where there is none or it is damaged, since it can be made again."""
        try:
            with np.load(path, allow_pickle=False) as data:
                version, n_labels, n_compared = data["numbers"].tolist()
                compared = dict(data["compared"].tolist())
                lists = [data[name].tolist() for name in ("classes", "ids", "queue")]
                return cls(version, n_labels, lists[0], lists[1], data["proba"], lists[2], compared, n_compared)
        except Exception:  # whatever a damaged archive raises
            return cls()
