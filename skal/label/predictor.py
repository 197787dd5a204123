"""A model to be used elsewhere: its predictions under today's class names, with calibrated probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skal.label.calibration import calibrate
from skal.label.snapshot import renamed

_TINY = 1e-12


@dataclass
class Predictor:
    """A fitted classifier with what has been learned about it since.

    Parameters
    ----------
    model : FrozenPrefixClassifier
    renames : list of (str, str)
        Old and new names of classes that were renamed or merged after it was trained.
    temperature : float or None
        Of :func:`skal.label.calibration.fit_temperature`; None where too few audit images are answered.
    """

    model: Any
    renames: list[tuple[str, str]] = field(default_factory=list)
    temperature: float | None = None

    @property
    def classes(self) -> list[str]:
        return self._named(np.zeros((0, len(self.model.classes_))))[0]

    def _named(self, proba: np.ndarray) -> tuple[list[str], np.ndarray]:
        classes = [str(name) for name in self.model.classes_]
        for label, to in self.renames:
            classes, proba = renamed(classes, proba, label, to)
        return classes, proba

    def predict(self, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Predictions of images.

        Returns
        -------
        confidence, proba : ndarray of shape (n, n_classes)
            The model's own shares, of which the page speaks, and the calibrated probabilities.
        """
        _, confidence = self._named(np.asarray(self.model.predict_proba(np.array(paths)), dtype=float))
        return confidence, confidence if self.temperature is None else calibrate(confidence, self.temperature)

    def to_onnx(self, path: Path) -> dict[str, Any]:
        """Write the whole network as ONNX; how its images must be prepared.

        Raises
        ------
        ValueError
            If the packages of the extra "onnx" are missing.
        """
        try:
            import onnxscript  # noqa: F401 (torch's exporter needs it)
        except ImportError as error:
            raise ValueError("the format onnx needs: pip install 'skal-learn[onnx]'") from error
        whole = self.model.to_module()
        _, columns = self._named(np.eye(len(whole.classes)))
        module = _Named(whole, columns, self.temperature).eval()
        x = torch.zeros(2, len(whole.mean), whole.image_size, whole.image_size)
        shapes = ({0: torch.export.Dim("n", min=1, max=4096)},)
        torch.onnx.export(
            module,
            (x,),
            path,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["images"],
            output_names=["probabilities"],
            external_data=False,
            verbose=False,
        )
        return {
            "input": "float32 (n, channels, height, width), RGB in [0, 1]",
            "resize": whole.resize,
            "image_size": whole.image_size,
            "interpolation": whole.interpolation,
        }


class _Named(nn.Module):
    """A network whose outputs are the classes of today, with calibrated probabilities."""

    columns: torch.Tensor

    def __init__(self, network: nn.Module, columns: np.ndarray, temperature: float | None):
        super().__init__()
        self.network, self.temperature = network, temperature
        self.register_buffer("columns", torch.from_numpy(columns).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        proba = self.network(images) @ self.columns
        if self.temperature is None:
            return proba
        return (proba.clamp_min(_TINY).log() / self.temperature).softmax(1)
