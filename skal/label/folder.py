"""Which files of a folder are images to label, and the fingerprint of each: its content and its appearance."""

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

from skal._grey import grey_levels, is_deep

EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
#: Written by phones; readable if pillow-heif is installed.
PHONE_EXTENSIONS = frozenset([".heic", ".heif"])
#: Why a link is left out if links are not followed.
LEAVES = "a link that leaves the folder"
#: Files with more bytes are assumed not to be photographs.
LARGEST_FILE = 512 << 20
#: Near-duplicates differ by at most this many bits of their hashes and this many levels of their small grey versions.
NEAR_BITS, NEAR_LEVELS = 16, 3.0
_SIDE, _GREY = 16, 8


@dataclass(frozen=True)
class Fingerprint:
    """Content and appearance of an image.

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
    """Extensions of the files that can be read in this environment."""
    try:
        import pillow_heif
    except ImportError:
        return EXTENSIONS
    pillow_heif.register_heif_opener()
    return EXTENSIONS | PHONE_EXTENSIONS


def list_images(folder: Path, *, follow_links: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """Image files below a folder, as paths relative to it, and what was left out, with reasons.

    Parameters
    ----------
    folder : Path
    follow_links : bool, default=False
        Whether links that leave the folder are followed. Each folder is visited once, under its own name if it is below
        this one, so loops end.

    Returns
    -------
    paths : list of str
        In no particular order. Hidden files and folders, and labelling projects, are skipped.
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
                left_out.append((os.fsencode(relative).decode(errors="replace"), reason))
        elif ending in known:
            paths.append(relative)
        elif ending in PHONE_EXTENSIONS:
            left_out.append((relative, "HEIC files need the package pillow-heif"))
    return paths, left_out


def _walk(folder: str, root: str, follow_links: bool, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Files, and why each is left out, if it is. `seen` holds the outside folders that have been visited."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, str(error.strerror)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not is_text(entry.name):
            yield entry.path, "its name is not valid UTF-8; rename it"
            continue
        is_link = entry.is_symlink()
        if is_link and not os.path.exists(entry.path):
            yield entry.path, "a broken link"
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


def is_text(value: str) -> bool:
    """Whether text can be encoded. Names of files may contain bytes that cannot, and JSON lone surrogates.

    Examples
    --------
    >>> is_text("é.png"), is_text(os.fsdecode(b"\\xe9.png"))
    (True, False)
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_within(path: str, root: str) -> bool:
    """Whether a path without links is the folder `root` or below it."""
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
    """Read an image file and compute its fingerprint.

    Raises
    ------
    ValueError
        If it cannot be read or decoded. The message gives the reason.
    """
    try:
        if os.stat(path).st_size > LARGEST_FILE:
            raise ValueError(f"the file is larger than {LARGEST_FILE >> 20} MiB")
        content = Path(path).read_bytes()
        with open_image(content) as image:
            image.draft("L", (4 * _SIDE, 4 * _SIDE))  # a JPEG is decoded at an eighth of its size
            grey = upright(image).convert("L")
    except UnidentifiedImageError as error:  # its message contains a memory address
        raise ValueError("it is not an image in a format that Pillow can read") from error
    except Exception as error:  # decoders may raise anything
        raise ValueError(str(error) or type(error).__name__) from error
    pixels = np.asarray(grey.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), dtype=np.int16)
    brighter = pixels[:, 1:] > pixels[:, :-1] + 2  # the margin ignores noise in flat regions
    small = grey.resize((_GREY, _GREY), Image.Resampling.BOX)
    return Fingerprint(content_hash(content), np.packbits(brighter).tobytes(), small.tobytes())


def open_image(content: bytes) -> Image.Image:
    """Open the content of an image file. An image of absurd size raises an error, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
        return Image.open(io.BytesIO(content))


def upright(image: Image.Image) -> Image.Image:
    """An opened image as it is shown: turned by its EXIF orientation, and with at most 8 bits per channel.

    Raises
    ------
    ValueError
        If its values have no defined range, so that a network cannot read it.
    """
    ImageOps.exif_transpose(image, in_place=True)
    return Image.fromarray(grey_levels(image)) if is_deep(image) else image


def content_hash(content: bytes) -> str:
    """Hash that identifies a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
