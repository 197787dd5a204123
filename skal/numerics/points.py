"""Points that are read block by block from their arrays and scaled when read, so that they are never copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial, reduce
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_ROWS = 1024  # points per block, so that intermediate results fit the processor's cache


class Points:
    """Points (n, D) in one or more arrays, which may be memory-mapped.

    Parameters
    ----------
    parts : sequence of ndarray or Tensor of shape (n_part, D)
        Arrays of points. They are never modified.
    sizes : sequence of int, default=None
        Number of points in each part. None uses their lengths.
    mean : Tensor of shape (D,), default=None
        Subtracted from each point when it is read.
    unit : bool, default=False
        Whether each point is scaled to norm 1 when it is read, both before and after the mean is subtracted.

    Examples
    --------
    >>> points = Points([np.array([[3.0, 4.0]]), np.array([[0.0, 2.0], [1.0, 0.0]])]).scaled(unit=True)
    >>> len(points), points[[2, 0]]
    (3, tensor([[1.0000, 0.0000],
            [0.6000, 0.8000]], dtype=torch.float64))
    >>> points.each(lambda rows: rows.sum(1))
    tensor([1.4000, 1.0000, 1.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        parts: Sequence[Any],
        sizes: Sequence[int] | None = None,
        mean: torch.Tensor | None = None,
        unit: bool = False,
    ):
        sizes = [len(part) for part in parts] if sizes is None else sizes
        used = [i for i, size in enumerate(sizes) if size > 0] or [0][: len(sizes)]
        self._parts, self._sizes = [parts[i] for i in used], [sizes[i] for i in used]
        self._read = partial(_read, mean=mean, unit=unit)
        self._mean, self._unit = mean, unit

    @classmethod
    def of(cls, X: Points | torch.Tensor) -> Points:
        """Points of a tensor; points are returned unchanged."""
        return X if isinstance(X, Points) else Points([X])

    def __len__(self) -> int:
        return sum(self._sizes)

    def __getitem__(self, rows: Any) -> torch.Tensor:
        """Points (k, D) at the given positions."""
        rows = torch.as_tensor(rows, dtype=torch.long).cpu().numpy()
        if len(self._parts) == 1:
            return self._apply(partial(_taken, self._read), self._parts, [rows])[0]
        ends = np.cumsum(self._sizes)
        own = np.searchsorted(ends, rows, side="right")
        used = np.unique(own) if len(rows) else np.array([0])
        within = [rows[own == i] - (ends[i] - self._sizes[i]) for i in used]
        found = torch.cat(self._apply(partial(_taken, self._read), [self._parts[i] for i in used], within))
        order = np.concatenate([np.flatnonzero(own == i) for i in used])
        return found[torch.from_numpy(np.argsort(order)).to(found.device)]

    def whole(self) -> torch.Tensor:
        """All points (n, D); not a copy if there is a single array that needs no scaling."""
        parts = self._apply(self._read, self._parts)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Values (n, ...) of a function of the points, which is called with blocks of at most 1,024 points."""
        return torch.cat(self._apply(partial(_each, self._read, function), self._parts))

    def reduced(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Results of a function for each block of points, combined by a function such as ``torch.minimum``."""
        return reduce(combine, self._apply(partial(_reduced, self._read, function, combine), self._parts))

    def norms(self) -> torch.Tensor:
        """Squared norm (n,) of each point."""
        return self.each(_squared_norms)

    def mean(self) -> torch.Tensor:
        """Mean (D,) of all points, in double precision."""
        return self.reduced(_sum, torch.add) / len(self)

    def inner(self, y: torch.Tensor) -> torch.Tensor:
        """Inner product (n,) of each point with `y`, limited by memory bandwidth; less precise than other methods."""
        return torch.cat(self._apply(partial(_inner, self._mean, y), self._parts, self._factors))

    def scaled(self, *, mean: torch.Tensor | None = None, unit: bool = False) -> Points:
        """The same points, with another mean to subtract and another choice of scaling to norm 1."""
        return type(self)(self._parts, self._sizes, mean, unit)

    def read(self, X: torch.Tensor) -> torch.Tensor:
        """Other points (k, D), scaled like these."""
        return self._read(X)

    def joined(self, X: torch.Tensor) -> Points:
        """These points followed by others (k, D), which will be scaled like these."""
        return type(self)([*self._parts, X], [*self._sizes, len(X)], self._mean, self._unit)

    @cached_property
    def _factors(self) -> list[Any]:
        """For each part, the factors of its rows before and after the mean is subtracted."""
        return self._apply(partial(_factors, self._mean, self._unit), self._parts, keep=True)

    def _apply(self, function: Callable[..., Any], *lists: Sequence[Any], keep: bool = False) -> list[Any]:
        """Results of a function for each part and its arguments; `keep` marks results that serve only further calls."""
        return [function(*arguments) for arguments in zip(*lists, strict=True)]


def tensor_of(X: Any) -> torch.Tensor:
    """A tensor that shares the memory of an array, without torch's warning for read-only arrays (only read here)."""
    if isinstance(X, torch.Tensor) or X.flags.writeable:
        return torch.as_tensor(X)
    interface = X.__array_interface__ | {"data": (X.ctypes.data, False)}
    return torch.from_numpy(np.asarray(SimpleNamespace(__array_interface__=interface, owner=X)))


def _read(rows: Any, mean: torch.Tensor | None, unit: bool) -> torch.Tensor:
    rows = tensor_of(rows)
    if not unit:
        return rows if mean is None else rows - mean.to(rows)
    if mean is None:
        return F.normalize(rows)
    rows = _from_mean(rows, mean)
    return F.normalize(rows, out=rows)


def _taken(read: Callable[[Any], torch.Tensor], part: Any, rows: np.ndarray) -> torch.Tensor:
    return read(tensor_of(part)[torch.from_numpy(rows)])


def _each(
    read: Callable[[Any], torch.Tensor], function: Callable[[torch.Tensor], torch.Tensor], part: Any
) -> torch.Tensor:
    # The result is allocated first: small results among large temporary blocks would fragment the memory, with gaps as
    # large as all points.
    X = tensor_of(part)
    first = function(read(X[:_ROWS]))
    values = first.new_empty((len(X), *first.shape[1:]))
    values[:_ROWS] = first
    for start in range(_ROWS, len(X), _ROWS):
        values[start : start + _ROWS] = function(read(X[start : start + _ROWS]))
    return values


def _reduced(
    read: Callable[[Any], torch.Tensor],
    function: Callable[[torch.Tensor], torch.Tensor],
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    part: Any,
) -> torch.Tensor:
    return reduce(combine, (function(read(rows)) for rows in tensor_of(part).split(_ROWS)))


def _factors(mean: torch.Tensor | None, unit: bool, part: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not unit:
        return None
    before = _each(tensor_of, _inverse_lengths, part)
    if mean is None:
        return before, torch.ones_like(before)
    return before, _each(partial(_from_mean, mean=mean), _inverse_lengths, part)


def _from_mean(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows).sub_(mean.to(rows))


def _inverse_lengths(rows: torch.Tensor) -> torch.Tensor:
    return 1 / rows.norm(dim=1).clamp_(min=1e-12)


def _inner(
    mean: torch.Tensor | None, y: torch.Tensor, part: Any, factors: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    product = tensor_of(part) @ y
    if factors is not None:
        product *= factors[0]
    if mean is not None:
        product -= mean.to(y) @ y
    return product if factors is None else product.mul_(factors[1])


def _squared_norms(rows: torch.Tensor) -> torch.Tensor:
    return (rows * rows).sum(1)


def _sum(rows: torch.Tensor) -> torch.Tensor:
    """Sum in double precision, so that it does not depend on the blocks. NumPy is twice as fast here as torch."""
    if rows.is_cuda:
        return rows.sum(0, dtype=torch.float64)
    return torch.from_numpy(rows.numpy().sum(0, dtype=np.float64))
