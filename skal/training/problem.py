"""What a recipe is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from skal.backbones.backbone import Backbone
from skal.images.inputs import Inputs
from skal.training.head import HeadPenalty
from skal.training.suffix import Suffix, interpolate


@dataclass(frozen=True)
class FineTuning:
    """Where fine-tuning starts: the head is solved, the layers are those before.

    Parameters
    ----------
    backbone : Backbone
    inputs : Inputs
        Labelled images.
    activations : Tensor of shape (n, ...)
        Of these images at the cut.
    targets : Tensor of shape (n,)
        Outputs of the head, from 0.
    is_old, is_right : ndarray of bool, shape (n,)
        Which images an earlier fit has seen, and which of all it gets right, as far as it matters.
    suffix : Suffix
        To be trained in place.
    penalty : HeadPenalty
    class_weight : ndarray of shape (n_classes,) or None
    probe : Suffix or None
        The suffix as it is before training; None where its head is random.
    wise_alpha : float
        Weight of what was trained in the mean with the probe.
    """

    backbone: Backbone
    inputs: Inputs
    activations: torch.Tensor
    targets: torch.Tensor
    is_old: np.ndarray
    is_right: np.ndarray
    suffix: Suffix
    penalty: HeadPenalty
    class_weight: np.ndarray | None
    probe: Suffix | None
    wise_alpha: float

    def settle(self, trained: Suffix) -> None:
        """Average the weights of a trained suffix with the probe's, in place."""
        if self.probe is not None:
            interpolate(self.probe, trained, self.wise_alpha)
