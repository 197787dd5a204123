"""Which files of a folder are images to label, and what identifies each: its content, and how it looks."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
#: What phones write; readable where pillow-heif is installed.
PHONE_EXTENSIONS = frozenset([".heic", ".heif"])
#: Why a link is left out where links are not followed.
LEAVES = "a link that leaves the folder"
#: Bytes of a file above which it is taken for something else than a photograph.
LARGEST_FILE = 512 << 20
#: Two images are near-duplicates whose hashes differ in no more bits, and whose small grey versions in no more levels.
NEAR_BITS, NEAR_LEVELS = 16, 3.0
_SIDE, _GREY = 16, 8


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an image.

    Parameters
    ----------
    content : str
        Hash of the file's bytes, 32 hexadecimal digits.
    hash : bytes
        256 bits: whether each pixel of a 16 x 16 version is brighter than the next one.
    grey : bytes
        An 8 x 8 grey version.
    """

    content: str
    hash: bytes
    grey: bytes


def extensions() -> frozenset[str]:
    """Endings of the files that can be read here."""
    try:
        import pillow_heif
    except ImportError:
        return EXTENSIONS
    pillow_heif.register_heif_opener()
    return EXTENSIONS | PHONE_EXTENSIONS


def list_images(folder: Path, *, follow_links: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """Image files below a folder, as paths relative to it, and what was left out with the reason.

    Parameters
    ----------
    folder : Path
    follow_links : bool, default=False
        Whether links that leave the folder are followed. Each folder is visited once, by its own name where it is below
        this one, so that loops end.

    Returns
    -------
    paths : list of str
        In no particular order; hidden files and folders, and labelling projects, are passed over.
    left_out : list of (path, reason)
    """
    known = extensions()
    paths: list[str] = []
    left_out: list[tuple[str, str]] = []
    root = os.path.realpath(folder)
    for path, reason in _walk(root, root, follow_links, set()):
        relative = os.path.relpath(path, root)
        ending = os.path.splitext(path)[1].lower()
        if reason:
            if ending in known or os.path.isdir(path):
                left_out.append((relative, reason))
        elif ending in known:
            paths.append(relative)
        elif ending in PHONE_EXTENSIONS:
            left_out.append((relative, "HEIC files need the package pillow-heif"))
    return paths, left_out


def _walk(folder: str, root: str, follow_links: bool, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Files, and why each is left out, if it is; `seen` are the folders outside that have been visited."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, str(error.strerror)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        is_link = entry.is_symlink()
        if is_link and not os.path.exists(entry.path):
            yield entry.path, "a link to nothing"
            continue
        target = os.path.realpath(entry.path) if is_link or entry.is_dir() else entry.path
        leaves = is_link and not _is_within(target, root)
        if leaves and not follow_links:
            yield entry.path, LEAVES
        elif entry.is_dir(follow_symlinks=leaves):
            is_new = target == entry.path or not (_is_within(target, root) or target in seen)
            seen.add(target)
            if is_new and not os.path.exists(os.path.join(entry.path, "project.json")):
                yield from _walk(entry.path, root, follow_links, seen)
        elif entry.is_file():
            yield entry.path, ""


def _is_within(path: str, root: str) -> bool:
    """Whether a path without links is a folder, or below it."""
    return path == root or path.startswith(os.path.join(root, ""))


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether a path, with all links resolved, is below a folder.

    Examples
    --------
    >>> is_inside("/a/b/../../c", "/a"), is_inside("/a/b", "/a")
    (False, True)
    """
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real != root and _is_within(real, root)


def read_fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """Read an image file and see what identifies it.

    Raises
    ------
    ValueError
        If it cannot be read or decoded; the message says why.
    """
    try:
        if os.stat(path).st_size > LARGEST_FILE:
            raise ValueError(f"larger than {LARGEST_FILE >> 20} MiB")
        content = Path(path).read_bytes()
        with open_image(content) as image:
            image.draft("L", (4 * _SIDE, 4 * _SIDE))  # a JPEG is decoded at an eighth of its size
            grey = ImageOps.exif_transpose(image).convert("L")
    except UnidentifiedImageError as error:  # its message holds an address in memory
        raise ValueError("it is no image in a format that Pillow reads") from error
    except Exception as error:  # decoders raise whatever they like
        raise ValueError(str(error) or type(error).__name__) from error
    pixels = np.asarray(grey.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), dtype=np.int16)
    brighter = pixels[:, 1:] > pixels[:, :-1] + 2  # a margin, else noise decides in flat regions
    small = grey.resize((_GREY, _GREY), Image.Resampling.BOX)
    return Fingerprint(content_hash(content), np.packbits(brighter).tobytes(), small.tobytes())


def open_image(content: bytes) -> Image.Image:
    """An image file's content, opened; an image of absurd size is an error, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
        return Image.open(io.BytesIO(content))


def content_hash(content: bytes) -> str:
    """Name of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
