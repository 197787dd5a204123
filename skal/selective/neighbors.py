"""Exact nearest neighbours by symmetric Kullback-Leibler divergence, with matrix products over blocks of the source."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data
from tqdm import tqdm

from skal._device import find_device
from skal._files import read_tensors, write_tensors
from skal._validation import check_count

_KIND = "nearest neighbours"
_BLOCK_BYTES = 128 << 20  # size of a block of source rows
_QUERIES = 1024  # queries that are compared with a block at a time
_FEW = 16  # rows that are prepared at a time
_CANCELLED = 0.02  # share of its terms below which a distance has lost too many digits in single precision


class SymmetricKLNeighbors(BaseEstimator):
    """Finds the source rows nearest to each query by the symmetric Kullback-Leibler divergence of histograms (Eq. 1).

    The distance is sum_h w_h (p_h - q_h) (log(p_h + eps) - log(q_h + eps)). Its cross terms are two matrix products.
    The search is therefore exact and as fast as these products. It processes the source in blocks and keeps the best
    rows so far.

    Parameters
    ----------
    n_neighbors : int, default=100
    weights : array-like of shape (n_features,) or None, default=None
        Weight of each column, such as ``FilterBankDescriptor.weights_``. None gives all columns the same weight.
    eps : float, default=2.220446e-16
        Added inside each logarithm. A larger value changes the neighbours: 1e-3 keeps half of the nearest 100.
    block_size : int or None, default=None
        Source rows per block. None uses blocks of 128 MiB. Results do not depend on it.
    device : str, default="auto"
        ``"auto"`` uses a GPU if there is one.
    verbose : bool, default=False
        Whether to show a progress bar.

    Attributes
    ----------
    n_features_in_ : int

    References
    ----------
    .. [1] Ge, Yu. "Borrowing treasures from the wealthy: deep transfer learning through selective joint fine-tuning",
       CVPR 2017, Eq. 1.

    Examples
    --------
    >>> source = np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
    >>> distances, indices = SymmetricKLNeighbors(2, eps=1e-3).fit(source).kneighbors([[0.3, 0.7]])
    >>> indices.tolist(), distances.round(3)
    ([[2, 1]], array([[0.054, 0.169]], dtype=float32))
    """

    n_features_in_: int
    _source: Any

    def __init__(
        self,
        n_neighbors: int = 100,
        *,
        weights: ArrayLike | None = None,
        eps: float = float(np.finfo(float).eps),
        block_size: int | None = None,
        device: str = "auto",
        verbose: bool = False,
    ):
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.eps = eps
        self.block_size = block_size
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> SymmetricKLNeighbors:
        """Store the source; nothing is computed yet.

        Parameters
        ----------
        X : array-like or memmap of shape (n_source, n_features), or a list of such blocks
            Histograms. Each :meth:`kneighbors` iterates over the blocks again, so generators are not accepted.
        y : ignored

        Returns
        -------
        self : SymmetricKLNeighbors

        Raises
        ------
        ValueError
            If X contains negative or infinite values, or a parameter is out of range.
        """
        if not isinstance(self.eps, Real) or not self.eps > 0:
            raise ValueError(f"eps={self.eps!r} is not a positive number")
        find_device(self.device)
        check_count("n_neighbors", self.n_neighbors)
        if self.block_size is not None:
            check_count("block_size", self.block_size)
        if _is_blocks(X):
            if iter(X) is X:
                raise ValueError("X is an iterator, which can be read only once; pass a list of blocks")
            validate_data(self, np.asarray(next(iter(X))), dtype=[np.float64, np.float32])
            self._source = [np.asarray(block) for block in X] if isinstance(X, (list, tuple)) else X
        elif isinstance(X, np.memmap):
            validate_data(self, X[:1], dtype=[np.float64, np.float32])
            self._source = X
        else:
            self._source = validate_data(self, X, dtype=[np.float64, np.float32])
            check_non_negative(self._source, "SymmetricKLNeighbors")
        self._weights()
        return self

    def kneighbors(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """Nearest source rows of each query.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            None uses the source rows as queries. A row is then not its own neighbour.
        n_neighbors : int, default=None
            None uses the parameter of the estimator.
        return_distance : bool, default=True
        checkpoint : path, default=None
            Folder in which the best rows so far are stored after every block, so that an interrupted search resumes
            when the call is repeated. Several searches, and several processes, may share it. Damaged files are ignored,
            and a folder that is not writable causes a RuntimeWarning. A lazy sequence of blocks is read once more, to
            identify it.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
            float32, ascending. Only with `return_distance`.
        indices : ndarray of shape (n_queries, n_neighbors)
            Source rows. Of equally near rows, the first is chosen.

        Raises
        ------
        ValueError
            If there are fewer source rows than neighbours, X has a different number of columns, or X or the source
            contains negative or infinite values.
        """
        check_is_fitted(self, "_source")
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        check_count("n_neighbors", k)
        itself = X is None
        if itself:
            X = np.concatenate(list(self._source)) if _is_blocks(self._source) else self._source
        queries = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        check_non_negative(queries, "SymmetricKLNeighbors")
        n_source = self._n_source()
        if n_source is not None and k > n_source - itself:
            raise ValueError(
                f"n_neighbors={k} must be at most {n_source - itself}, the number of available source rows"
            )
        search = _Search(queries, k, self._weights(), float(self.eps), find_device(self.device), itself)
        kept = _Kept(Path(checkpoint).expanduser(), self._named(queries, k, itself)) if checkpoint is not None else None
        done = kept.restore(search) if kept is not None else 0
        with tqdm(total=n_source, initial=done, unit="row", desc="neighbours", disable=not self.verbose) as progress:
            for start, block in self._blocks(done):
                search.see(start, block)
                progress.update(len(block))
                if kept is not None:
                    kept.save(search)
        if search.n_seen < k + itself:
            raise ValueError(
                f"n_neighbors={k} must be at most {search.n_seen - itself}, the number of available source rows"
            )
        distances, indices = search.best
        return (distances, indices) if return_distance else indices

    def _n_source(self) -> int | None:
        """Number of source rows; None for a lazy sequence of blocks."""
        if not _is_blocks(self._source):
            return len(self._source)
        return sum(map(len, self._source)) if isinstance(self._source, list) else None

    def _weights(self) -> np.ndarray:
        if self.weights is None:
            return np.ones(self.n_features_in_)
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (self.n_features_in_,) or not (weights >= 0).all() or not np.isfinite(weights).all():
            raise ValueError(
                f"weights of shape {weights.shape} must be {self.n_features_in_} finite numbers of at least 0, one per "
                "column"
            )
        return weights

    def _blocks(self, done: int) -> Iterator[tuple[int, np.ndarray]]:
        """Source rows from row `done`, in blocks, each with the index of its first row."""
        size = self.block_size or max(1, _BLOCK_BYTES // (4 * self.n_features_in_))
        start = 0
        for part in self._source if _is_blocks(self._source) else [self._source]:
            for first in range(0, len(part), size):
                block = part[first : first + size]
                if start + len(block) > done:
                    block = np.asarray(block[max(0, done - start) :])
                    if block.ndim != 2 or block.shape[1] != self.n_features_in_:
                        raise ValueError(f"a block has shape {block.shape} instead of (n, {self.n_features_in_})")
                    if not np.isfinite(block).all() or (block < 0).any():
                        raise ValueError(f"the source contains negative or infinite values, in rows from {start} on")
                    yield max(start, done), block
                start += min(size, len(part) - first)

    def _named(self, queries: np.ndarray, k: int, itself: bool) -> str:
        """Hash that identifies a search: queries, parameters and source."""
        hasher = xxhash.xxh3_128(np.ascontiguousarray(queries).data)
        hasher.update(self._weights().data)
        hasher.update(repr((k, float(self.eps), itself, self.n_features_in_)).encode())
        for part in self._source if _is_blocks(self._source) else [self._source]:
            hasher.update(repr(np.shape(part)).encode())
            looked_at: Any = slice(None)
            if isinstance(part, np.memmap):  # identified by its file and a few rows, so that it is not read completely
                info = os.stat(part.filename)  # type: ignore[arg-type]
                hasher.update(repr((info.st_mtime_ns, info.st_size)).encode())
                looked_at = np.linspace(0, len(part) - 1, min(len(part), 16)).astype(int)
            hasher.update(np.ascontiguousarray(part[looked_at]).data)
        return hasher.hexdigest()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        return tags


class _Search:
    """The best source rows of each query among those seen so far.

    The mean histogram of the queries and its logarithm are subtracted from all rows before distances are computed. This
    changes no difference, but the terms that cancel become small, so single precision is sufficient.
    """

    def __init__(self, queries: np.ndarray, k: int, weights: np.ndarray, eps: float, device: str, itself: bool):
        self._queries, self._eps, self._device, self._itself = queries, eps, device, itself
        self._k, self.n_seen = k, 0
        mean = queries.mean(axis=0, dtype=np.float64)
        self._mean, self._log_mean, self._weights = (
            torch.from_numpy(part).float().to(device) for part in (mean, np.log(mean + eps), weights)
        )
        self._room: torch.Tensor | None = None
        self._of_queries: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._distances = torch.empty(len(queries), 0, dtype=torch.float32)
        self._indices = torch.empty(len(queries), 0, dtype=torch.long)

    def see(self, start: int, block: np.ndarray) -> None:
        """Compare a block of source rows with all queries."""
        q, log_q, own = self._centred(block)
        kept = []
        for rows in self._chunks():
            p, log_p, of_query = self._queries_of(rows)
            size = of_query + own
            distances = size.clone().addmm_(p, log_q.T, alpha=-1).addmm_(log_p, q.T, alpha=-1).clamp_(min=0)
            kept.append(self._merged(rows, distances.cpu(), size.cpu(), start, block))
        self._distances, self._indices = (torch.cat(parts) for parts in zip(*kept, strict=True))
        self.n_seen += len(block)

    @property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        return self._distances[:, : self._k].numpy(), self._indices[:, : self._k].numpy()

    def _chunks(self) -> Iterator[slice]:
        for first in range(0, len(self._queries), _QUERIES):
            yield slice(first, min(first + _QUERIES, len(self._queries)))

    def _queries_of(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Centred and weighted queries of a chunk. If there is a single chunk, they are computed once."""
        if len(self._queries) > _QUERIES or self._of_queries is None:
            p, log_p, own = self._centred(self._queries[rows], self._weights)
            self._of_queries = p, log_p, own[:, None]
        return self._of_queries

    def _centred(
        self, rows: np.ndarray, weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Centred histograms and logarithms, multiplied by `weights` if given, and the weighted sum of their products.

        A few rows are processed at a time, so that intermediate results stay in the processor's cache, and memory is
        reused. For a block of hundreds of megabytes, both matter as much as the arithmetic.
        """
        n, width = rows.shape
        of_queries = weights is not None
        if of_queries or self._room is None or len(self._room) < n:
            room = torch.empty(2 * n, width, device=self._device, dtype=torch.float32).view(n, 2, width)
            self._room = self._room if of_queries else room
        else:
            room = self._room[:n]
        own = torch.empty(n, device=self._device, dtype=torch.float32)
        for few in torch.arange(n).split(_FEW):
            p, logs = room[few[0] : few[-1] + 1].unbind(1)
            p.copy_(torch.from_numpy(np.array(rows[few[0] : few[-1] + 1], np.float32)))  # of any memory layout
            torch.add(p, self._eps, out=logs)
            logs.log_().sub_(self._log_mean)
            p.sub_(self._mean)
            own[few] = (p * logs).mul_(self._weights).sum(1)  # pairwise summation, unlike in a matrix product
            if weights is not None:
                p.mul_(weights)
                logs.mul_(weights)
        return room[:, 0], room[:, 1], own

    def _merged(
        self, rows: slice, distances: torch.Tensor, size: torch.Tensor, start: int, block: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best among the current best rows and those of a block. Of equally near rows, the first is chosen."""
        n, width = distances.shape
        numbers = torch.arange(start, start + width)
        if self._itself:
            distances[numbers == torch.arange(rows.start, rows.stop)[:, None]] = torch.inf
        nearest = distances
        if width > 4 * self._k:  # partition first: sorting a whole block is slower than computing its distances
            ranked = distances.masked_fill(distances < _CANCELLED * size, 0)  # too imprecise to be left out
            least = ranked.kthvalue(self._k, dim=1, keepdim=True).values
            n_near = int((ranked <= least).sum(1).max())
            near = ranked.topk(n_near, largest=False).indices.sort(dim=1).values
            nearest, size, numbers = distances.gather(1, near), size.gather(1, near), numbers[near]
        numbers = numbers.expand(n, -1)
        # If the terms nearly cancel, rounding errors are large relative to the distance: these few are summed directly.
        imprecise = nearest < _CANCELLED * size
        for i in imprecise.any(1).nonzero().flatten().tolist():
            for few in imprecise[i].nonzero().flatten().split(_FEW):
                nearest[i, few] = self._directly(self._queries[rows.start + i], block[numbers[i, few].numpy() - start])
        joined = torch.cat([self._distances[rows], nearest], dim=1)
        of = torch.cat([self._indices[rows], numbers], dim=1)
        order = joined.sort(dim=1, stable=True).indices[:, : self._k]
        return joined.gather(1, order), of.gather(1, order)

    def _directly(self, p: np.ndarray, q: np.ndarray) -> torch.Tensor:
        """Eq. 1 of a query and some source rows, summed in double precision."""
        p, q = p.astype(np.float64), q.astype(np.float64)
        weights = self._weights.double().cpu().numpy()
        terms = weights * (p - q) * (np.log(p + self._eps) - np.log(q + self._eps))
        return torch.from_numpy(terms.sum(axis=1)).float()

    @property
    def state(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and indices of the best rows so far."""
        return self._distances, self._indices

    def resume(self, n_seen: int, distances: torch.Tensor, indices: torch.Tensor) -> None:
        """Continue after `n_seen` source rows. Raises a ValueError if the tensors do not fit the queries."""
        shape = (len(self._queries), min(n_seen, self._k))
        if distances.shape != shape or indices.shape != shape:
            raise ValueError(f"the state has shape {tuple(distances.shape)} instead of {shape}")
        self.n_seen, self._distances, self._indices = n_seen, distances, indices


class _Kept:
    """The state of a search, stored in a file of a folder that is named by the hash of the search."""

    def __init__(self, folder: Path, name: str):
        self._path, self._name = folder / f"nearest-{name}.safetensors", name
        self._refused = False

    def restore(self, search: _Search) -> int:
        """Restore the state of an earlier call. Returns the number of source rows it had processed."""
        try:
            tensors, described = read_tensors(self._path, _KIND)
            if described["name"] != self._name:
                raise ValueError(f"{str(self._path)!r} is damaged: it belongs to another search")
            search.resume(described["n_seen"], tensors["distances"], tensors["indices"])
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            warnings.warn(f"the search starts over: {error}", RuntimeWarning, stacklevel=3)
        return search.n_seen

    def save(self, search: _Search) -> None:
        """Store the current state atomically: after a kill, the file holds either the old or the new state."""
        distances, indices = search.state
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            described = {"name": self._name, "n_seen": search.n_seen}
            write_tensors(self._path, _KIND, {"distances": distances, "indices": indices}, described)
        except OSError as error:
            if not self._refused:
                self._refused = True
                message = f"cannot store the state of the search in {str(self._path.parent)!r}: {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=3)


def _is_blocks(X: Any) -> bool:
    """Whether a source consists of blocks of rows rather than of rows."""
    if hasattr(X, "shape") or hasattr(X, "__array__"):
        return False
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and np.ndim(X[0]) == 2
    return hasattr(X, "__iter__") and not hasattr(X, "dtype")
