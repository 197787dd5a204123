"""Whether mirror images resemble the images: they do for photographs, but not for characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from skal.features.activations import Point
from skal.features.pooling import flat
from skal.features.prefix import Prefix
from skal.images.inputs import Inputs, JoinedInputs

#: Number of images compared per set, and the share that must resemble their mirror images. Among 256 images this share
#: is .95 and more in photographs, .85 in pictures of clothes, .54 to .78 in digits, and .25 in the letters b, d, p, q,
#: s, z.
_COMPARED, _SHARE = 128, 0.8


def are_like_their_mirror_images(prefix: Prefix, sets: Sequence[Inputs]) -> bool:
    """Whether nearly all images are nearer to their own mirror image than to any other image, in pre-trained features.

    Parameters
    ----------
    prefix : Prefix
    sets : sequence of Inputs
        At most 128 images of each set are compared, evenly spaced.
    """
    # The cut is included because training needs its activations next.
    points = [Point(prefix.backbone.layers.features, True), Point(prefix.cut)]
    images, mirror_images = [], []
    seen: set[bytes] = set()
    for inputs in sets:  # one after the other, because sets may hold pre-processed images of different sizes
        rows = _spaced(len(inputs))
        new = {name: row for name, row in zip(inputs.keys(rows), rows, strict=True) if name not in seen}
        seen |= new.keys()
        some = JoinedInputs((inputs, sorted(new.values())))
        for own, mirrored in replace(prefix, mirrors=True).viewed_at(some, points):
            images.append(flat(own[0]))
            mirror_images.append(flat(mirrored[0]))
    if len(seen) < 2:
        return False
    return share_nearest_to_own(torch.cat(images), torch.cat(mirror_images)) > _SHARE


def share_nearest_to_own(images: torch.Tensor, mirror_images: torch.Tensor) -> float:
    """Share of images (n, n_features) that are nearer to their own mirror image than to any other image.

    Examples
    --------
    >>> images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> share_nearest_to_own(images, images), share_nearest_to_own(images, images.flip(0))
    (1.0, 0.0)
    """
    x, mirrored = (functional.normalize(part, dim=1) for part in (images, mirror_images))
    center = (x.mean(dim=0) + mirrored.mean(dim=0)) / 2
    x, mirrored = (functional.normalize(part - center, dim=1) for part in (x, mirrored))
    to_others = (x @ x.T).fill_diagonal_(-torch.inf).amax(dim=1)
    return float(((x * mirrored).sum(dim=1) > to_others).float().mean())


def _spaced(n: int) -> np.ndarray:
    """At most `_COMPARED` of n rows, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, _COMPARED)).astype(int)) if n else np.empty(0, dtype=int)
