"""Images that a program asks a person to label: paths, or arrays that are stored first."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skal.label.asking import Desk
from skal.label.catalogue import Catalogue
from skal.label.folder import content_hash
from skal.label.state import State


class Asked:
    """The images that a program asks about, and their answers.

    Parameters
    ----------
    desk : Desk
    folder : Path
        Stores images that are given as arrays; created if needed.
    changed : Condition
        Notified when something is answered.
    """

    def __init__(self, desk: Desk, folder: Path, changed: threading.Condition):
        self._desk, self._folder, self._changed = desk, folder, changed
        self._catalogue: Catalogue = desk.catalogue
        self._state: State = desk.state

    def ask(self, images: Any, timeout: float | None) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`skal.label.LabelSession.ask`."""
        ids = [self.take(path) for path in store_images(images, self._folder)]
        with self._changed:
            asked = [image for image in dict.fromkeys(ids) if not self._catalogue.is_reserved(image)]
            self._desk.asked.update(dict.fromkeys(asked))
            self._changed.notify_all()
            self._changed.wait_for(lambda: not any(self._desk.is_open(image) for image in asked), timeout)
            for image in asked:
                self._desk.asked.pop(image, None)
            found = [self._state.decision(image) if not self._catalogue.is_reserved(image) else None for image in ids]
            labels = ["" if decision is None else decision.label or "" for decision in found]
        return np.array(labels, dtype=str), np.array([label != "" for label in labels], dtype=bool)

    def take(self, path: str) -> str:
        """Id of the image in a file, which is added to the catalogue if it is new."""
        with self._changed:
            listed = None if self._catalogue.root is None else self._catalogue.name_of(os.path.abspath(path))
            name = os.path.abspath(path) if listed is None else listed
            fingerprint, stamp = self._catalogue.read(name)
            if fingerprint is None:
                raise ValueError(f"cannot read the image {str(path)!r}: {self._catalogue.unreadable[name]}")
            self._catalogue.add(name, fingerprint, stamp, may_be_reserved=listed is not None)
            return fingerprint.content


def store_images(images: Any, folder: Path) -> list[str]:
    """Paths of images. Arrays are written as PNG files named by the hash of their content.

    Parameters
    ----------
    images : sequence of paths, or ndarray of shape (n, H, W), (n, H, W, 1) or (n, H, W, 3), uint8
    folder : Path
        Created if needed.

    Raises
    ------
    ValueError
        If `images` are neither paths nor such an array.
    """
    from skal.images.forms import as_data, as_paths  # imports torch, which the page must not wait for

    paths = as_paths(images)
    if paths is not None:
        return [str(path) for path in paths]
    array = np.asarray(as_data(images))
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise ValueError(
            f"images must be image files or a uint8 array of shape (n, H, W), (n, H, W, 1) or (n, H, W, 3), not an "
            f"array of dtype {array.dtype} and shape {array.shape}"
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
