"""Images are loaded in a thread while the network computes those before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from skal.features.stored import KeyedInputs
from skal.images.inputs import Inputs, ItemInputs, JoinedInputs

_Value = TypeVar("_Value")


class Loader:
    """Calls functions in a thread, in order, or when their result is asked for.

    Parameters
    ----------
    ahead : bool
        Whether in a thread.

    Examples
    --------
    >>> with Loader(ahead=True) as loader:
    ...     result = loader.submit(sum, [1, 2])
    ...     result()
    3
    """

    def __init__(self, ahead: bool):
        self._thread = ThreadPoolExecutor(1) if ahead else None

    def submit(self, function: Callable[..., _Value], *args: Any) -> Callable[[], _Value]:
        """A function that waits for the result and returns it, or raises what the call raised."""
        return partial(function, *args) if self._thread is None else self._thread.submit(function, *args).result

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


def one_ahead(items: Iterable[_Value]) -> Iterator[_Value]:
    """The items; each is asked for before the one before it is returned.

    Examples
    --------
    >>> list(one_ahead("abc"))
    ['a', 'b', 'c']
    """
    before: list[_Value] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def may_load_ahead(inputs: Inputs) -> bool:
    """Whether images may be loaded in a thread: a data set of the user may not allow it."""
    if isinstance(inputs, JoinedInputs):
        return all(map(may_load_ahead, {id(part): part for part, _ in inputs.places}.values()))
    return may_load_ahead(inputs.inputs) if isinstance(inputs, KeyedInputs) else not isinstance(inputs, ItemInputs)
