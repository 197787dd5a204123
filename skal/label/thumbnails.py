"""The images sent by the server: re-encoded pictures at the displayed size, never the bytes of the file itself."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from skal.label.folder import content_hash, open_image, upright

#: Longest sides in pixels. A requested side is rounded up to one of them.
SIDES = (256, 512, 1024, 2048, 4096)
_QUALITY = 88


class ChangedError(Exception):
    """A file is no longer the image that was listed."""


class Thumbnails:
    """JPEG pictures of images, with the most recent ones cached in memory.

    Parameters
    ----------
    max_bytes : int, default=2**26
        Maximum size of the cache.
    """

    def __init__(self, max_bytes: int = 1 << 26):
        self.max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, image: str, file: str, side: int) -> bytes:
        """A picture of an image.

        Parameters
        ----------
        image : str
            Hash of the content that the file must have.
        file : str
        side : int
            Requested longest side, in pixels.

        Raises
        ------
        ChangedError
            If the file is gone, or its content has changed.
        """
        key = image, next((size for size in SIDES if size >= side), SIDES[-1])
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        picture = make_thumbnail(image, file, key[1])
        with self._lock:
            if key not in self._kept:
                self._kept[key] = picture
                self._bytes += len(picture)
            while self._bytes > self.max_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return picture


def make_thumbnail(image: str, file: str, side: int) -> bytes:
    """A JPEG picture, upright, no larger than `side`; see :meth:`Thumbnails.get`."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ChangedError(error.strerror or str(error)) from error
    if content_hash(content) != image:
        raise ChangedError("the file has been replaced")
    try:
        with open_image(content) as opened:
            opened.draft("RGB", (side, side))
            picture = _on_white(upright(opened))
    except Exception as error:  # decoders may raise anything
        raise ChangedError(str(error) or type(error).__name__) from error
    picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    """Convert to RGB, with transparent areas in white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
