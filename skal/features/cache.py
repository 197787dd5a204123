"""Caches of activations, in memory or in a folder, keyed by image content.

A cache holds rows of tensors. A *space* identifies the function that computed them (weights, pre-processing, point in
the network), and a *key* identifies the content of one image. Both kinds of cache have the methods ``holds(space)``,
``get(space, keys)`` and ``put(space, keys, rows)``.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import torch

from skal.features.folder import FolderCache
from skal.features.memory import ActivationCache


class Cache(Protocol):
    """Rows of tensors, keyed by space and image content."""

    def holds(self, space: bytes) -> bool:
        """Whether any row of this space is cached."""

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """The cached rows, by their position in `keys`."""

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Store rows."""


#: The cache of this process, shared by all estimators and profiles, so that clones reuse each other's activations.
CACHE = ActivationCache()
_FOLDERS: dict[str, FolderCache] = {}


def find_cache(cache: bool | str | os.PathLike[str] | Cache) -> Cache | None:
    """The cache specified by a `cache` parameter.

    Parameters
    ----------
    cache : bool, path or cache
        True is the in-memory cache of this process, and False is none. A path is a folder, which is created if it does
        not exist (``~`` is expanded). An object with the methods ``holds``, ``get`` and ``put``, such as
        ``FolderCache(folder, dtype="float16")``, is returned unchanged.

    Raises
    ------
    ValueError
        If `cache` is none of these, or an empty path.
    """
    if isinstance(cache, (bool, np.bool_)):
        return CACHE if cache else None
    if not isinstance(cache, type) and all(callable(getattr(cache, name, None)) for name in ("holds", "get", "put")):
        return cache  # type: ignore[return-value]
    if not isinstance(cache, (str, os.PathLike)) or not isinstance(os.fspath(cache), str) or not os.fspath(cache):
        raise ValueError(
            f"cache={cache!r} must be True (memory), False (none), the path of a folder, or an object with the methods "
            "holds, get and put"
        )
    folder = os.path.realpath(os.path.expanduser(cache))
    if folder not in _FOLDERS:
        _FOLDERS[folder] = FolderCache(folder)
    return _FOLDERS[folder]
