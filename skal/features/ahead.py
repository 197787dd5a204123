"""Images are loaded in a thread while the network computes those before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from joblib import cpu_count

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


def loads_ahead(inputs: Inputs, device: torch.device | str) -> bool:
    """Whether images are loaded in a thread: where the network leaves processors idle, and the images allow it.

    A network that computes on every core is only slowed down by what runs beside it.
    """
    is_idle = torch.device(device).type != "cpu" or torch.get_num_threads() < cpu_count()
    return is_idle and _allow_threads(inputs)


def _allow_threads(inputs: Inputs) -> bool:
    """Not where a data set of the user is read, which may not bear threads."""
    if isinstance(inputs, JoinedInputs):
        return all(map(_allow_threads, {id(part): part for part, _ in inputs.places}.values()))
    return _allow_threads(inputs.inputs) if isinstance(inputs, KeyedInputs) else not isinstance(inputs, ItemInputs)
