"""Random crops, so that long training of all layers does not overfit."""

from __future__ import annotations

import torch
import torch.nn.functional as F

#: Maximum shift of an image, as a share of its side.
_REACH = 1 / 8


def cropped(images: torch.Tensor) -> torch.Tensor:
    """Shift each image of a batch at random by up to an eighth of its sides; edges are filled by reflection.

    Parameters
    ----------
    images : Tensor of shape (n, channels, H, W)
        Network inputs. Images with a side of fewer than 5 pixels, and inputs that are not images, are left unchanged.

    Returns
    -------
    images : Tensor of shape (n, channels, H, W)

    Examples
    --------
    >>> cropped(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """
    if images.ndim != 4 or round(_REACH * min(images.shape[2:])) == 0:
        return images
    height, width = images.shape[2:]
    down, right = round(_REACH * height), round(_REACH * width)
    padded = F.pad(images, (right, right, down, down), mode="reflect")
    tops = torch.randint(2 * down + 1, (len(images),)).tolist()
    lefts = torch.randint(2 * right + 1, (len(images),)).tolist()
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )
