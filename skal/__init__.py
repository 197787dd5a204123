"""skal: adapt a pre-trained CNN to a new image task with as few labels as possible."""

from skal import modal
from skal.active import ActiveClassifier
from skal.adaptation import DANClassifier
from skal.classifier import FrozenPrefixClassifier
from skal.gradients import output_change
from skal.images import ImageTransform
from skal.query import Query, adma_sampling, emoc_sampling, random_sampling
from skal.selective import SelectiveJointClassifier
from skal.source import SourceProfile

modal.repair()

__version__ = "0.1.0"
__all__ = [
    "ActiveClassifier",
    "DANClassifier",
    "FrozenPrefixClassifier",
    "ImageTransform",
    "Query",
    "SelectiveJointClassifier",
    "SourceProfile",
    "adma_sampling",
    "emoc_sampling",
    "output_change",
    "random_sampling",
]
