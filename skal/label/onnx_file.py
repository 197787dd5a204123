"""A predictor as an ONNX file, for programs without Python."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skal._extras import how_to_install
from skal.label.predictor import Predictor

_TINY = 1e-12


def check_exporter() -> None:
    """Raise an error that names the extra, before anything is written, if torch's exporter lacks its dependencies.

    Raises
    ------
    ValueError
        If the packages of the extra "onnx" are missing.
    """
    if find_spec("onnxscript") is None:
        raise ValueError(f"format 'onnx' needs the extra 'onnx': {how_to_install('onnx')}")


def write_onnx(predictor: Predictor, path: Path) -> dict[str, Any]:
    """Write the whole network as ONNX. Returns how its images must be prepared."""
    whole = predictor.model.to_module()
    _, columns = predictor.renamed(np.eye(len(whole.classes)))
    module = _Named(whole, columns, predictor.temperature).eval()
    x = torch.zeros(2, len(whole.mean), whole.image_size, whole.image_size, dtype=torch.float32)
    shapes = ({0: torch.export.Dim("n", min=1, max=4096)},)
    with warnings.catch_warnings():
        # torch's exporter calls functions that torch has deprecated; the file is the same.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
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
    """A network whose outputs are the current classes, with calibrated probabilities."""

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
