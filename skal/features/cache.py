"""Where activations are kept: in memory or in a folder, under the content of the image they belong to.

A cache holds rows of tensors. A *space* names the function that made them (weights, pre-processing, point of the
network), a *key* the content of one image. Both kinds answer ``holds(space)``, ``get(space, keys)`` and
``put(space, keys, rows)``.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import torch

from skal.features.folder import FolderCache
from skal.features.memory import ActivationCache


class Cache(Protocol):
    """Rows of tensors under a space and the content of an image."""

    def holds(self, space: bytes) -> bool:
        """Whether any row of this space is known."""

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """Positions among `keys` that are known, with their rows."""

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Keep rows."""


#: The cache of this process, shared by every estimator and profile, so that clones find what others computed.
CACHE = ActivationCache()
_FOLDERS: dict[str, FolderCache] = {}


def find_cache(cache: bool | str | os.PathLike[str] | Cache) -> Cache | None:
    """The cache that a parameter means: this process's, none, a folder's, or the one that is given.

    Parameters
    ----------
    cache : bool, path or cache
        True is the cache in memory, False none; a path names a folder, made if it does not exist (``~`` is expanded).
        Anything with methods ``holds``, ``get`` and ``put`` is taken as it is, such as
        ``FolderCache(folder, dtype="float16")``.

    Raises
    ------
    ValueError
        If it is none of these, or an empty path.
    """
    if isinstance(cache, (bool, np.bool_)):
        return CACHE if cache else None
    if not isinstance(cache, type) and all(callable(getattr(cache, name, None)) for name in ("holds", "get", "put")):
        return cache  # type: ignore[return-value]
    if not isinstance(cache, (str, os.PathLike)) or not isinstance(os.fspath(cache), str) or not os.fspath(cache):
        raise ValueError(
            f"cache={cache!r} is not True (memory), False (none), the path of a folder, or an object with the methods "
            "holds, get and put"
        )
    folder = os.path.realpath(os.path.expanduser(cache))
    if folder not in _FOLDERS:
        _FOLDERS[folder] = FolderCache(folder)
    return _FOLDERS[folder]
