from . import active, backbones, classifier, features, gradients, images, numerics, query, selective, source, training
from .active import ActiveClassifier
from .classifier import FrozenPrefixClassifier
from .gradients import output_change
from .images import ImageTransform, Pool
from .query import Query, adma_sampling, emoc_sampling, random_sampling
from .source import SourceProfile
from .training import DAN, FineTuning, SelectiveJoint

__version__: str

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
    "active",
    "adma_sampling",
    "backbones",
    "classifier",
    "emoc_sampling",
    "features",
    "gradients",
    "images",
    "numerics",
    "output_change",
    "query",
    "random_sampling",
    "selective",
    "source",
    "training",
]
