"""Average pooling over space."""

from __future__ import annotations

import torch


def pool(activations: torch.Tensor, pooled: bool) -> torch.Tensor:
    """Average feature maps (n, channels, *space) over space if `pooled`; other tensors are returned unchanged."""
    return activations.flatten(2).mean(2) if pooled and activations.ndim > 2 else activations


def flat(features: torch.Tensor) -> torch.Tensor:
    """A final representation as (n, n_features): maps averaged over space, token sequences over tokens."""
    return features.mean(1) if features.ndim == 3 else pool(features, True).flatten(1)
