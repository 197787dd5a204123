"""skal: adapt a pre-trained CNN to a new image task with as few labels as possible."""

from skal._compat import declare_torchvision_operators, repair_modal
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

repair_modal()
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
