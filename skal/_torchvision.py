"""Lets torchvision from PyPI run with a CPU build of torch.

PyPI's torchvision is compiled for CUDA. With a CPU build of torch, its compiled operators cannot be loaded, and the
import fails with "operator torchvision::nms does not exist", because torchvision refers to operators that do not exist.
If those operators are declared without an implementation, models and transforms work. Calling such an operator still
raises a clear error. They are declared only when torchvision is imported, because declaring them requires torch, which
takes seconds to import.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: Any = None  # operators exist as long as the library object


class _Declaring:
    """Import hook that finds no module, but declares the operators once, just before torchvision is imported."""

    def __init__(self) -> None:
        self._is_over = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchvision" and not self._is_over:
            self._is_over = True
            _declare()


def declare_torchvision_operators() -> None:
    """Declare ``nms`` and ``qnms`` when torchvision is imported, if its compiled operators cannot be loaded."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Declaring())


def _declare() -> None:
    import torch

    global _declared
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    compiled = [path for path in Path(spec.origin).parent.glob("_C*") if path.suffix in {".so", ".pyd", ".dylib"}]
    try:
        for path in compiled:
            torch.ops.load_library(str(path))
    except OSError:
        compiled = []
    if not compiled:
        _declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _declared.define(name + _SIGNATURE)
