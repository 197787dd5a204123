"""A model for use outside a session: its predictions under current class names, with calibrated probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skal.label.audit import FEWEST
from skal.label.calibration import calibrate, fit_temperature
from skal.label.fitting import BLOCK
from skal.label.folder import content_hash
from skal.label.snapshot import Snapshot, renamed
from skal.label.state import State

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Predictor:
    """A fitted classifier with later renames of classes and its calibration.

    Parameters
    ----------
    model : FrozenPrefixClassifier
    renames : list of (str, str)
        Old and new names of classes that were renamed or merged after it was trained.
    temperature : float or None
        From :func:`skal.label.calibration.fit_temperature`; None if too few audit images are answered.
    labels : dict of str to str or None
        The person's label of each image, by content hash; None for a model without its project.
    n_newer : int
        Number of answers that the model was not trained on.
    """

    model: Any
    renames: list[tuple[str, str]] = field(default_factory=list)
    temperature: float | None = None
    labels: dict[str, str] | None = None
    n_newer: int = 0

    @property
    def classes(self) -> list[str]:
        return self.renamed(np.zeros((0, len(self.model.classes_))))[0]

    @property
    def columns(self) -> list[str]:
        """Columns of a table of predictions. `your_label` is included if labels are known."""
        yours = [] if self.labels is None else ["your_label"]
        return ["path", "label", *yours, "confidence", "probability", *(f"p({name})" for name in self.classes)]

    def renamed(self, proba: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The current classes, and the model's predictions in columns for them."""
        classes = [str(name) for name in self.model.classes_]
        for label, to in self.renames:
            classes, proba = renamed(classes, proba, label, to)
        return classes, proba

    def predict(self, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Predictions of images.

        Returns
        -------
        confidence, proba : ndarray of shape (n, n_classes)
            The model's own probabilities, which the page shows, and the calibrated ones.
        """
        _, confidence = self.renamed(np.asarray(self.model.predict_proba(np.array(paths)), dtype=float))
        return confidence, confidence if self.temperature is None else calibrate(confidence, self.temperature)

    def table(self, paths: Sequence[str]) -> pd.DataFrame:
        """Predictions as a table with the columns :attr:`columns`."""
        import pandas as pd

        parts = [self.predict(paths[start : start + BLOCK]) for start in range(0, len(paths), BLOCK)]
        empty = np.zeros((0, len(self.classes)))
        confidence = np.concatenate([empty, *(own for own, _ in parts)])
        proba = np.concatenate([empty, *(calibrated for _, calibrated in parts)])
        rows, best = np.arange(len(paths)), confidence.argmax(axis=1)
        found = {"path": list(paths), "label": np.array(self.classes)[best]}
        if self.labels is not None:
            found["your_label"] = [self.labels.get(content_hash(Path(path).read_bytes()), "") for path in paths]
        found |= {"confidence": confidence[rows, best], "probability": proba[rows, best]}
        return pd.DataFrame(found | {f"p({name})": proba[:, k] for k, name in enumerate(self.classes)})


def calibration(state: State, snapshot: Snapshot) -> tuple[float | None, int]:
    """The temperature of a model on the audit answers (None below 30 answers), and the number of answers."""
    rows, targets = [], []
    for image in state.audited:
        row, decision = snapshot.row(image), state.decision(image)
        if row is not None and decision is not None and decision.label in snapshot.classes:
            rows.append(row)
            targets.append(snapshot.classes.index(str(decision.label)))
    return (fit_temperature(rows, targets) if len(rows) >= FEWEST else None), len(rows)
