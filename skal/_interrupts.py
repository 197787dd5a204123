"""Interrupts that wait until they can reach the caller."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C within the block takes effect when it ends.

    Where C code calls Python, as torch does for each tensor of a file, an interrupt that comes in between is replaced
    with an error of that code, which looks like a damaged file.

    Examples
    --------
    >>> try:
    ...     with interrupts_wait():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("the block goes on")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    the block goes on
    interrupted
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:  # none that Python has set
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
