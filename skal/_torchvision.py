"""Make ``import torchvision`` work beside a CPU build of torch.

PyPI's torchvision is compiled for CUDA. Beside a CPU torch its compiled operators cannot load, and the import dies with
"operator torchvision::nms does not exist", because torchvision describes operators that are not there. Declaring those
operators (without an implementation) lets models and transforms work; a call of such an operator still says clearly
that it is missing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: torch.library.Library | None = None  # operators live as long as the library object


def declare_missing_operators() -> None:
    """Declare torchvision's ``nms`` and ``qnms`` where its compiled operators cannot be loaded."""
    global _declared
    spec = importlib.util.find_spec("torchvision")
    if _declared is not None or spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
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
