"""Single-threaded BLAS, for problems so small that threads cost more than they save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

_lock = Lock()
_inside: list[Any] = []  # one entry per thread inside the context; all hold the first thread's limit


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread in the whole process, until the last thread leaves this context.

    If each thread restored the limit it found on entry, it could restore the one-thread limit set by another.

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
    """The loaded libraries, cached because searching for them takes ten milliseconds."""
    return ThreadpoolController()
