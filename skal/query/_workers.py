"""Features that stay on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skal.numerics.points import Points
from skal.query._pool import chunks_of


class WorkerPoints(Points):
    """Points whose parts stay on Dask workers: only rows that are read and results of functions are transferred.

    A part that is lost with its worker is recomputed by another.
    """

    @classmethod
    def computed(cls, features: Callable[[Any], Any], X: Any) -> WorkerPoints:
        """The results of a function on each chunk of a Dask array, kept where they were computed."""
        chunks, sizes = chunks_of(X)
        return cls(cls([])._apply(features, chunks, keep=True), sizes)

    def _apply(self, function: Callable[..., Any], *lists: Sequence[Any], keep: bool = False) -> list[Any]:
        import dask

        send = dask.delayed(function, traverse=False)  # one node of the graph, not a copy per part
        tasks = [send(*arguments) for arguments in zip(*lists, strict=True)]
        return list(dask.persist(*tasks) if keep else dask.compute(*tasks))
