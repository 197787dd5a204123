"""BLAS on one thread, for problems so small that threads cost more than they save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = Lock()
_inside: list[Any] = []  # one for each thread that is inside; the first holds the limit


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread of the whole process, until the last of those who asked for it leaves.

    Each lifting its own limit would restore what it found, which is one thread where another was inside.

    Examples
    --------
    >>> with one_blas_thread():
    ...     print({pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "blas"})
    {1}
    """
    with _lock:
        _inside.append(_inside[0] if _inside else _libraries().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            limit = _inside.pop()
            if not _inside:
                limit.restore_original_limits()


@cache
def _libraries() -> ThreadpoolController:
    """Those that are loaded; looking for them takes ten milliseconds."""
    return ThreadpoolController()
