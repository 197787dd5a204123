"""Maps averaged over space."""

from __future__ import annotations

import torch


def pool(activations: torch.Tensor, pooled: bool) -> torch.Tensor:
    """Average a map (n, channels, *space) over space where asked; other tensors stay as they are."""
    return activations.flatten(2).mean(2) if pooled and activations.ndim > 2 else activations


def flat(features: torch.Tensor) -> torch.Tensor:
    """A final representation as (n, n_features): maps averaged over space, token sequences over tokens."""
    return features.mean(1) if features.ndim == 3 else pool(features, True).flatten(1)
