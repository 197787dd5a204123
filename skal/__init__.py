"""skal: adapt a pre-trained CNN to a new image task with as few labels as possible."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skal._torchvision import declare_torchvision_operators

if TYPE_CHECKING:
    from skal.active import ActiveClassifier
    from skal.classifier import FrozenPrefixClassifier
    from skal.gradients import output_change
    from skal.images import ImageTransform, Pool
    from skal.query import Query
    from skal.query.adma import adma_sampling
    from skal.query.emoc import emoc_sampling
    from skal.query.random import random_sampling
    from skal.source import SourceProfile
    from skal.training import DAN, FineTuning, SelectiveJoint

declare_torchvision_operators()

__version__ = "0.1.0"
__all__ = [
    "DAN",
    "ActiveClassifier",
    "FineTuning",
    "FrozenPrefixClassifier",
    "ImageTransform",
    "Pool",
    "Query",
    "SelectiveJoint",
    "SourceProfile",
    "adma_sampling",
    "emoc_sampling",
    "output_change",
    "random_sampling",
]

#: What a name is imported from when it is first used: torch alone takes seconds, and not every command needs it.
_HOMES = {
    "DAN": "skal.training",
    "ActiveClassifier": "skal.active",
    "FineTuning": "skal.training",
    "FrozenPrefixClassifier": "skal.classifier",
    "ImageTransform": "skal.images",
    "Pool": "skal.images",
    "Query": "skal.query",
    "SelectiveJoint": "skal.training",
    "SourceProfile": "skal.source",
    "adma_sampling": "skal.query",
    "emoc_sampling": "skal.query",
    "output_change": "skal.gradients",
    "random_sampling": "skal.query",
}
_MODULES = (
    "active",
    "backbones",
    "classifier",
    "features",
    "gradients",
    "images",
    "numerics",
    "query",
    "selective",
    "source",
    "training",
)

if not TYPE_CHECKING:  # else any name of the package would be one to a type checker

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"skal.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'skal' has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
