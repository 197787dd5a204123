"""The forms of ``X``: arrays, file paths, images of any size, data sets, and pools that are never split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import issparse
from torch.utils.data import DataLoader, Dataset, IterableDataset

_FOR_BYTES = "convert paths with os.fsdecode, and open encoded images with PIL.Image.open(io.BytesIO(data))"


class Pool:
    """Wrapper for images that should not be split when ``X`` is split.

    scikit-learn's searches silently cut every array that is as long as ``X`` to the rows of a fold. A `Pool` has no
    length, no shape and no ``__array__``, so they pass it on unchanged.

    Parameters
    ----------
    images : array-like
        Images, or anything else with one row per image, such as labels.

    Attributes
    ----------
    images : array-like

    Examples
    --------
    >>> hasattr(Pool(np.zeros((3, 2))), "__len__")
    False
    """

    def __init__(self, images: Any):
        self.images = images

    def __repr__(self) -> str:
        return f"Pool({type(self.images).__name__} of {len(self.images)} rows)"


def unwrap(X: Any) -> Any:
    """The content of a :class:`Pool`; anything else unchanged."""
    return X.images if isinstance(X, Pool) else X


def as_data(X: Any) -> Any:
    """Convert `X` to a form with rows that can be indexed.

    Lists, Series and object arrays become an array of numbers, an array of paths (strings), or an object array of
    images of several sizes. A data set of images is returned unchanged and read when needed. Data frames of features,
    sparse matrices and arrays are returned unchanged.

    Raises
    ------
    ValueError
        If `X` is not in one of the forms that the guide lists; the message says what to pass instead.
    """
    X = unwrap(X)
    if hasattr(X, "with_transform"):  # Inputs, which are already checked
        return X
    _refuse_single(X)
    if isinstance(X, torch.Tensor):
        return _numbers(X)
    if type(X).__module__.startswith("dask.array"):
        X = np.asarray(X)
    if isinstance(X, pd.DataFrame):
        X = _of_frame(X)
    if isinstance(X, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        if pd.api.types.is_numeric_dtype(X.dtype):
            return X  # scikit-learn reports what is wrong with it
        X = X.to_numpy(dtype=object) if hasattr(X, "to_numpy") else np.asarray(X, dtype=object)
    if isinstance(X, np.ndarray):
        if np.ma.is_masked(X):
            raise ValueError("X is a masked array; pass X.filled(value), or only the rows without masked values")
        if X.dtype.kind == "S":
            raise ValueError(f"X contains bytes, such as {X.flat[:1]!r}; {_FOR_BYTES}")
        if X.dtype.kind in "UT" and X.ndim != 1:
            raise ValueError(
                f"X is an array of strings of shape {X.shape}, but paths must have shape (n,); pass X.ravel()"
            )
        is_rows = X.ndim == 1 and (X.dtype.kind in "OT" or (X.dtype.kind == "U" and len(X) == 0))
        return _of_items(X.tolist() if X.dtype.kind == "T" else list(X)) if is_rows else X
    if isinstance(X, (list, tuple)):
        return _of_items(list(X))
    if is_dataset(X):
        files = _files_of(X)
        return X if files is None else files
    return X


def is_images(X: Any) -> bool:
    """Whether `X` contains images, in any form, rather than 2-D features."""
    X = as_data(X)
    return len(getattr(X, "shape", ())) >= 3 or is_items(X) or as_paths(X) is not None


def as_paths(X: Any) -> np.ndarray | None:
    """`X` as a 1-D array of file paths, or None if it does not consist of paths."""
    X = as_data(X)
    is_text = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind == "U" and len(X) > 0
    return X if is_text else None


def absolute(paths: np.ndarray) -> np.ndarray:
    """The same files by absolute paths, which keep their meaning if the working directory changes."""
    return np.array([*map(os.path.abspath, paths)])


def is_items(X: Any) -> bool:
    """Whether `X` (see :func:`as_data`) is a sequence of individual images: of several sizes, or a data set."""
    return is_dataset(X) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1)


def is_dataset(X: Any) -> bool:
    """Whether `X` has rows and a length but is not an array: a torch ``Dataset``, or another lazy sequence."""
    is_array = hasattr(X, "shape") or hasattr(X, "__array__") or isinstance(X, (list, tuple, Mapping, str, bytes))
    return not is_array and hasattr(X, "__len__") and hasattr(X, "__getitem__")


def image_of(item: Any) -> Any:
    """The image of a row: the row itself, or the first element of a tuple such as (image, label).

    Raises
    ------
    ValueError
        If the row is a dict, bytes, an open file or a missing value.
    """
    if isinstance(item, (tuple, list)) and item:
        item = item[0]
    if isinstance(item, Mapping):
        raise ValueError(f"it is a dict with keys {[*item]}; pass only the images: [row['image'] for row in X]")
    if isinstance(item, (bytes, bytearray, np.bytes_)):
        raise ValueError(f"it is bytes; {_FOR_BYTES}")
    if hasattr(item, "read") and not isinstance(item, os.PathLike):
        raise ValueError("it is an open file; pass its path, or the image in it: PIL.Image.open(file)")
    if item is None or item is pd.NA or item is pd.NaT or (isinstance(item, float) and np.isnan(item)):
        raise ValueError(f"it is {item!r}, neither a path nor an image; drop the row")
    if isinstance(item, torch.Tensor):
        return _numbers(item)
    return item


def _refuse_single(X: Any) -> None:
    """Raise a ValueError if `X` is None, a single image, or an object without rows."""
    if X is None:
        raise ValueError("X is None; pass images, image files or features")
    if isinstance(X, (str, os.PathLike)):
        name = os.fspath(X)
        if isinstance(name, str) and os.path.isdir(name):
            raise ValueError(f"X is the folder {name!r}; pass a list of the image files in it, e.g. from Path.rglob")
        if isinstance(name, str) and any(sign in name for sign in "*?["):
            raise ValueError(f"X is the pattern {name!r}; pass the list of files that match it: glob.glob(X)")
        if isinstance(name, str) and name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")):
            raise ValueError(f"X is the archive {name!r}; unpack it and pass a list of the image files in it")
        raise ValueError(f"X is the single path {name!r}; pass a list of image files")
    if isinstance(X, (bytes, bytearray)):
        raise ValueError(f"X is bytes; {_FOR_BYTES}, and pass them in a list")
    if isinstance(X, Image.Image):
        raise ValueError("X is a single PIL image; pass a list of images, such as [X]")
    is_table = isinstance(X, Mapping) and not issparse(X)  # a sparse matrix may be a dict of its values
    if is_table or (type(X).__module__.split(".")[0] == "datasets" and hasattr(X, "column_names")):
        names = [*X] if is_table else X.column_names
        raise ValueError(
            f"X is a {type(X).__name__} with the columns {names}; pass the column of images, such as X['image']"
        )
    if isinstance(X, DataLoader):
        raise ValueError("X is a DataLoader; pass its data set: X.dataset")
    if isinstance(X, IterableDataset) or (isinstance(X, Iterable) and not _has_rows(X)):
        raise ValueError(f"X is a {type(X).__name__}, which cannot be indexed by row; pass list(X)")
    if isinstance(X, Dataset) and not hasattr(X, "__len__"):
        raise ValueError(f"X is the data set {type(X).__name__}, which has no length; pass one that defines __len__")
    if not _has_rows(X):
        raise ValueError(f"X is {X!r} of type {type(X).__name__}; pass images, image files or features")


def _has_rows(X: Any) -> bool:
    return hasattr(X, "shape") or hasattr(X, "__array__") or (hasattr(X, "__getitem__") and hasattr(X, "__len__"))


def _numbers(X: torch.Tensor) -> np.ndarray:
    """A tensor as an array, which shares its memory if possible."""
    if X.layout is not torch.strided:
        raise ValueError(f"X is a tensor of layout {X.layout}; pass X.to_dense()")
    X = X.detach().cpu()
    return (X.float() if X.dtype is torch.bfloat16 else X).numpy()


def _of_frame(X: pd.DataFrame) -> Any:
    """A data frame of features unchanged; for a single column of paths or images, that column."""
    others = [name for name, dtype in X.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]
    if len(X.columns) == 1 and others:
        return X.iloc[:, 0]
    texts = [name for name in others if len(X) and isinstance(X[name].iloc[0], (str, os.PathLike))]
    if texts:
        raise ValueError(f"X is a DataFrame with strings in {texts}; pass the column of paths, such as X[{texts[0]!r}]")
    return X


def _files_of(dataset: Any) -> np.ndarray | None:
    """Files of a torchvision ImageFolder, which skal decodes itself unless it has a custom transform or loader."""
    readers = (type(dataset).__getitem__, getattr(dataset, "loader", None))
    is_theirs = all(getattr(reader, "__module__", "") == "torchvision.datasets.folder" for reader in readers)
    return _of_items(dataset.samples) if is_theirs and dataset.transform is None else None


def _of_items(items: list[Any]) -> np.ndarray:
    """Convert a list of rows to an array: of numbers, of paths, or of images of several sizes."""
    if not items:
        raise ValueError("X is empty: an array with 0 sample(s) where at least 1 is required")
    if _is_number(items[0]) or (isinstance(items[0], (list, tuple)) and not _is_image_like([*items[0], None][0])):
        return _stacked(items)
    images = []
    for i, item in enumerate(items):
        try:
            images.append(image_of(item))
        except ValueError as error:
            raise ValueError(f"X[{i}] cannot be read: {error}") from None
    is_path = [isinstance(image, (str, os.PathLike)) for image in images]
    if any(is_path):
        odd = is_path.index(False) if not all(is_path) else None
        if odd is not None:
            raise ValueError(f"X[{odd}] is of type {type(images[odd]).__name__}, but other rows are paths")
        return np.array([os.fsdecode(image) for image in images])
    is_array = [isinstance(image, np.ndarray) for image in images]
    if all(is_array) and len({image.shape for image in images}) == 1:
        return _stacked(images)
    if not any(is_array) and not any(isinstance(image, Image.Image) for image in images):
        return _stacked(images)
    for i, image in enumerate(images):
        if isinstance(image, Image.Image):
            continue
        if getattr(image, "dtype", None) != np.uint8 or image.ndim not in (2, 3):
            what = f"{image.dtype} of shape {image.shape}" if is_array[i] else type(image).__name__
            raise ValueError(
                f"X[{i}] is {what}; images of different sizes must be PIL images, paths, or uint8 arrays (H, W, 3) or "
                "(H, W), and pre-processed images must all have the same size"
            )
    rows = np.empty(len(images), dtype=object)
    rows[:] = images
    return rows


def _is_number(item: Any) -> bool:
    return isinstance(item, (Number, np.number, np.bool_)) and item == item  # NaN is treated as a missing path


def _is_image_like(item: Any) -> bool:
    is_array = isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim >= 2
    return is_array or isinstance(item, (str, os.PathLike, Image.Image))


def _stacked(items: list[Any]) -> np.ndarray:
    """Convert rows of numbers to an array."""
    try:
        array = np.asarray(items)
    except (ValueError, TypeError, OverflowError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind in "OUS":
        kinds = {str(np.shape(item)) if hasattr(item, "shape") else type(item).__name__ for item in items}
        raise ValueError(
            f"X is a list whose rows cannot be combined into an array of numbers: they are {sorted(kinds)[:5]}"
        )
    return array
