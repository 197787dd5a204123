"""Training of the trainable layers: one file per recipe."""

from skal.numerics.propagation import align, propagate
from skal.training.dan import DAN
from skal.training.fine_tuning import FineTuning
from skal.training.net import SuffixNet
from skal.training.problem import Problem
from skal.training.pseudo_labelling import pseudo_labels
from skal.training.recipe import Recipe, Trained
from skal.training.selective_joint import SelectiveJoint

__all__ = [
    "DAN",
    "FineTuning",
    "Problem",
    "Recipe",
    "SelectiveJoint",
    "SuffixNet",
    "Trained",
    "align",
    "propagate",
    "pseudo_labels",
]
