"""Checks which image files can be decoded, before they are labelled or predicted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from skal.images.decode import UnreadableImageError, decode, file_problem
from skal.images.forms import as_paths


class Readable(NamedTuple):
    """Which files can be decoded, and why the others cannot."""

    mask: np.ndarray
    failures: pd.DataFrame


def readable(paths: Any, n_jobs: int | None = None) -> Readable:
    """Decode every file once and report which cannot be decoded, and why.

    Parameters
    ----------
    paths : sequence of paths of length n
        Any form of `X` that consists of files: a list, an array, a Series, torchvision's ``ImageFolder``.
    n_jobs : int or None, default=None
        Number of threads. None means 1, unless ``joblib.parallel_config`` sets it. -1 uses all processors.

    Returns
    -------
    mask : ndarray of shape (n,), bool
        ``paths[mask]`` are the files that can be decoded.
    failures : DataFrame
        Columns ``path`` and ``reason``, one row per unreadable file, indexed by its position in `paths`.

    Raises
    ------
    ValueError
        If `paths` holds anything but paths.

    Examples
    --------
    >>> readable(["missing.png"]).failures["reason"].tolist()
    ['No such file or directory']
    """
    files = as_paths(paths)
    if files is None:
        raise ValueError(f"paths must be a sequence of image files, but got {type(paths).__name__}")
    # Threads suffice, since Pillow releases the GIL while decoding.
    found = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(_failure)(path) for path in files)
    mask = np.array([why is None for why in found], dtype=bool)
    rows = np.flatnonzero(~mask)
    failures = pd.DataFrame({"path": files[rows], "reason": [found[i] for i in rows]}, index=rows, dtype=object)
    return Readable(mask, failures)


def _failure(path: str) -> str | None:
    problem = file_problem(path)
    if problem is not None:
        return problem
    try:
        decode(path)
    except UnreadableImageError as error:
        return error.reason
    return None
