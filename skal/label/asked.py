"""Images that a program asks a person about: paths, or arrays that are stored first."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skal.images.forms import as_data, as_paths
from skal.label.folder import content_hash


def store_images(images: Any, folder: Path) -> list[str]:
    """Paths of images; arrays are written as PNG files under the hash of their content.

    Parameters
    ----------
    images : sequence of paths, or ndarray of shape (n, H, W), (n, H, W, 1) or (n, H, W, 3), uint8
    folder : Path
        Made if it is needed.

    Raises
    ------
    ValueError
        If they are neither.
    """
    paths = as_paths(images)
    if paths is not None:
        return [str(path) for path in paths]
    array = np.asarray(as_data(images))
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise ValueError(
            f"a person can be shown image files or uint8 images (n, H, W), (n, H, W, 1) or (n, H, W, 3), not an array "
            f"of {array.dtype} of shape {array.shape}"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    return [_store(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels, folder) for pixels in array]


def _store(pixels: np.ndarray, folder: Path) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    path = folder / f"{content_hash(content.getvalue())}.png"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
    return str(path)
