"""Fingerprints: equal in every process for values that compute the same, different as soon as any part changes."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
import xxhash
from scipy import sparse
from sklearn.base import BaseEstimator
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from skal._code import class_parts, code_parts, function_parts, library_of_class, library_of_module
from skal.images.forms import as_paths

#: Parameters of estimators and queries that do not affect results: caching, progress output, number of processes.
NO_RESULT = frozenset({"cache", "verbose", "n_jobs"})

_BLOCK = 1 << 24  # bytes of an array hashed at once
_SAMPLE = 1 << 16  # bytes hashed at each end of an image file
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))


def fingerprint(value: Any, name: str = "value") -> str:
    """Digest of everything that a value computes with, 32 hexadecimal digits.

    - Arrays, tensors, sparse matrices and data frames: type, shape and every element.
    - Functions: bytecode, constants, defaults, closure, attributes, and recursively the module-level values they read.
      Functions of an installed library, the standard library or skal: bytecode and version of the library.
    - Objects: class and attributes. Classes: methods, class attributes and bases; for a library class, name and
      version.
    - PyTorch modules: classes (by the code of their methods), settings, hooks, parameters, buffers and submodules in
      order. The training flag is ignored, since every pass sets it.
    - Fitted source profiles: their tensors and labels. Random generators: their state.
    - Strings and paths that name an existing file: the name and the whole content.

    Memory addresses, the order of sets and dicts, the device of tensors, names of source files, line numbers and
    docstrings of functions are ignored.

    Parameters
    ----------
    value : object
    name : str, default="value"
        Name of the value in error messages.

    Returns
    -------
    digits : str

    Raises
    ------
    ValueError
        If a part of the value has a state that cannot be read, such as an open file; the message names the part.

    Examples
    --------
    >>> fingerprint([1, np.arange(3)]) == fingerprint([1, np.arange(3)])
    True
    >>> rate = 1
    >>> before = fingerprint(lambda x: rate * x)
    >>> rate = 2
    >>> fingerprint(lambda x: rate * x) == before
    False
    """
    return _Walk().digest(value, name).hex()


def fingerprint_params(estimator: Any, name: str = "estimator") -> str:
    """:func:`fingerprint` of what :func:`sklearn.base.clone` copies: class and parameters, except `NO_RESULT`."""
    return _Walk().digest(_Cloned(estimator), name).hex()


def fingerprint_data(X: Any, name: str = "X") -> str:
    """:func:`fingerprint` of all rows of data.

    A row that is a file path is represented by its name, its size, and the first and last 64 KiB of its content, which
    is all of it up to 128 KiB. For a larger file, the modification time is included as well.
    """
    try:
        paths = as_paths(X)
    except ValueError:  # paths mixed with other objects are treated as objects
        paths = None
    if paths is None:
        return _Walk().digest(X, name).hex()
    hasher = xxhash.xxh3_128(f"{len(paths)} paths".encode())
    for path in paths:
        hasher.update(_hash(path.encode(errors="surrogateescape")) + _sampled(path))
    return hasher.hexdigest()


class _Cloned:
    """Marks a value of which only what scikit-learn's clone copies is hashed."""

    def __init__(self, value: Any):
        self.value = value


def _hash(*parts: bytes) -> bytes:
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()


def _sampled(path: str) -> bytes:
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        head = file.read(2 * _SAMPLE)
        if info.st_size <= 2 * _SAMPLE:
            return _hash(head)
        file.seek(-_SAMPLE, os.SEEK_END)
        return _hash(head[:_SAMPLE], file.read(), f"{info.st_size} {info.st_mtime_ns}".encode())


def file_content(name: str) -> bytes:
    """Digest of a file's content; empty if there is no file of this name."""
    is_name = len(name) < 1024 and name.isprintable() and (os.sep in name or os.path.splitext(name)[1])
    if not is_name or not os.path.isfile(name):
        return b""
    hasher = xxhash.xxh3_128()
    with open(name, "rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.digest()


class _UnreadableError(ValueError):
    """Names the unreadable part. Containing parts re-raise it unchanged."""


class _Walk:
    """Walks through the parts of a value; a part that contains itself is hashed as a reference to its ancestor."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}  # holds the objects, so that no id is reused
        self._open: dict[int, int] = {}
        self._trail: list[str] = []

    def digest(self, value: Any, name: str) -> bytes:
        if isinstance(value, np.generic) and type(value.item()) in _PLAIN:
            value = value.item()
        if type(value) in _PLAIN:
            content = file_content(value) if type(value) is str else b""
            return _hash(f"{type(value).__name__} {value!r}".encode(errors="surrogatepass"), content)
        key = id(value)
        if key in self._known:
            return self._known[key][1]
        if key in self._open:
            return _hash(b"above", str(len(self._open) - self._open[key]).encode())
        self._open[key] = len(self._open)
        self._trail.append(name)
        try:
            parts = [
                part if isinstance(part, bytes) else _hash(part[0].encode()) + self.digest(part[1], part[0])
                for part in _parts(value)
            ]
        except _UnreadableError:
            raise
        except Exception as error:
            raise _UnreadableError(
                f"{'.'.join(filter(None, self._trail))} is a {type(value).__module__}.{type(value).__qualname__} whose "
                f"state cannot be read ({error}), so changes to it would go unnoticed; pass a function or an object "
                "that can be pickled, or run without a folder"
            ) from error
        finally:
            del self._open[key]
            self._trail.pop()
        digest = _hash(*sorted(parts)) if isinstance(value, (*_UNORDERED, *_MAPPINGS)) else _hash(*parts)
        self._known[key] = value, digest
        return digest


_Parts = Iterator[bytes | tuple[str, Any]]
_UNORDERED = (set, frozenset)
_MAPPINGS = (dict, types.MappingProxyType)
_NAMED = (  # implemented in C: only the name can be read
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
    types.MethodWrapperType,
    np.ufunc,
)


def _parts(value: Any) -> _Parts:
    """Parts of a value: bytes, and named parts that are walked recursively."""
    if isinstance(value, _Cloned):
        yield from _cloned(value.value)
    elif isinstance(value, torch.Tensor):
        yield from _tensor(value)
    elif isinstance(value, nn.Module):
        yield from _module(value)
    elif isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        yield from _frame(value)
    elif sparse.issparse(value):
        rows = value.tocsr()
        yield f"{type(value).__name__} {value.shape}".encode()
        yield from (("data", rows.data), ("indices", rows.indices), ("indptr", rows.indptr))
    elif isinstance(value, types.FunctionType):
        yield from function_parts(value)
    elif isinstance(value, types.CodeType):
        yield from code_parts(value)
    elif isinstance(value, type):
        yield from class_parts(value)
    elif isinstance(value, types.MethodType):
        yield from (("", value.__func__), ("__self__", value.__self__))
    elif isinstance(value, types.ModuleType):
        yield from _library_module(value)
    elif isinstance(value, _NAMED):
        yield from _named(value)
    elif _is_described_by_its_fit(value):
        yield type(value).__name__.encode()
        yield from ((name, getattr(value, name)) for name in value._determined_by)
    elif isinstance(value, os.PathLike):
        yield "path", os.fspath(value)
    elif isinstance(value, torch.Generator):
        yield str(value.device).encode()
        yield "state", value.get_state()
    elif isinstance(value, (tuple, list, *_UNORDERED, *_MAPPINGS)):
        yield from _container(value)
    elif hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "__array__"):
        yield from _array(value)
    else:
        yield from _object(value)


def _is_described_by_its_fit(value: Any) -> bool:
    """Whether a value is a fitted estimator whose class names the attributes that determine its results."""
    return hasattr(type(value), "_determined_by") and hasattr(value, value._determined_by[0])


def _cloned(value: Any) -> _Parts:
    own = type(value)
    if own in (list, tuple):
        yield "", own(map(_Cloned, value))
    elif isinstance(value, type) or not hasattr(value, "get_params"):
        yield "", value
    elif getattr(own, "__sklearn_clone__", None) not in (None, BaseEstimator.__sklearn_clone__):
        # clone returns it unchanged. An unfitted profile is represented by its parameters.
        is_unfitted = hasattr(own, "_determined_by") and not _is_described_by_its_fit(value)
        yield "", value.get_params() if is_unfitted else value
    else:
        yield "class", own
        for name, param in sorted(value.get_params(deep=False).items()):
            if name not in NO_RESULT:
                yield name, _Cloned(param)


def _tensor(tensor: torch.Tensor) -> _Parts:
    if is_lazy(tensor):
        yield b"lazy"
        return
    yield f"tensor {tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode()
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _module(module: nn.Module) -> _Parts:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("the code of a compiled module cannot be read")
    yield "class", type(module)
    if isinstance(module, fx.GraphModule):
        yield "code", module.code
    for kind in ("_parameters", "_buffers", "_modules"):
        yield kind.encode()
        yield from getattr(module, kind).items()
    for name, attribute in sorted(vars(module).items()):
        if name in ("_parameters", "_buffers", "_modules", "training"):
            continue
        if "_hooks" in name and isinstance(attribute, dict):  # their keys are ids that differ between processes
            attribute = list(attribute.values())
        if not isinstance(attribute, (RemovableHandle, fx.Graph)):
            yield name, attribute


def _array(array: Any) -> _Parts:
    """Parts of an array, read in blocks of rows, since it may be stored in a file or on a cluster."""
    yield f"array {array.dtype!r} {array.shape}".encode()
    if isinstance(array, np.ma.MaskedArray):
        yield "mask", np.ma.getmaskarray(array)
        array = array.data
    elif library_of_class(type(array)) is None:
        yield "class", type(array)
    if np.dtype(array.dtype).hasobject:
        yield "items", np.asarray(array).tolist()
        return
    if len(array.shape) == 0:
        array = np.asarray(array).reshape(1)
    of_row = int(np.prod(array.shape[1:])) * np.dtype(array.dtype).itemsize
    step = max(1, _BLOCK // max(of_row, 1))
    hasher = xxhash.xxh3_128()
    for start in range(0, array.shape[0], step):
        hasher.update(np.asarray(array[start : start + step]).tobytes())
    yield hasher.digest()


def _frame(value: Any) -> _Parts:
    yield type(value).__name__.encode()
    if isinstance(value, pd.DataFrame):
        yield "names", value.columns
        yield "index", value.index
        yield from (("", value.iloc[:, i]) for i in range(value.shape[1]))
    else:
        yield f"{value.dtype!r}".encode()
        yield "name", value.name
        yield "values", value.to_numpy()
        if isinstance(value, pd.Series):
            yield "index", value.index


def _container(value: Any) -> _Parts:
    own = type(value)
    kind = "mapping" if own in _MAPPINGS else own.__name__
    yield b"\xff" + kind.encode()
    if library_of_class(own) is None:
        yield "class", own
        yield "attributes", getattr(value, "__dict__", None)
    if isinstance(value, _MAPPINGS):
        # String keys are used as names, so that errors can say which value cannot be read.
        yield from ((str(key) if type(key) is str else "item", (key, part)) for key, part in value.items())
    elif isinstance(value, _UNORDERED):
        yield from (("item", item) for item in sorted(value, key=_by_name))
    else:
        yield from (("", item) for item in value)


def _by_name(item: Any) -> str:
    """Sort key that gives the same order in every process, since the order of first visits matters."""
    return repr(item) if type(item) in _PLAIN else getattr(item, "__qualname__", type(item).__qualname__)


def _library_module(module: types.ModuleType) -> _Parts:
    library = library_of_module(module)
    file = getattr(module, "__file__", None)
    yield f"module {module.__name__} {library}".encode()
    yield file_content(file) if library is None and file else b""


def _named(value: Any) -> _Parts:
    yield getattr(value, "__qualname__", value.__name__).encode()
    owner = getattr(value, "__self__", None) or getattr(value, "__objclass__", None)
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    yield from ((name, part) for name, part in (("owner", owner), ("module", module)) if part is not None)


def _object(value: Any) -> _Parts:
    cls = type(value)
    yield "class", cls
    if cls.__module__ == "_thread":  # a lock does not affect results
        return
    if isinstance(value, (staticmethod, classmethod)):
        yield "", value.__func__
    elif isinstance(value, property):
        yield "", (value.fget, value.fset, value.fdel)
    elif isinstance(value, functools._lru_cache_wrapper):
        yield "", value.__wrapped__
    else:
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of something in a module
            yield from _named(value) if hasattr(value, "__name__") else [("", reduced)]
            return
        state = (*reduced[:3], *(list(items) for items in reduced[3:5] if items is not None))
        yield "", state
        if library_of_class(cls) is None and hasattr(value, "__dict__"):  # its pickle may omit some attributes
            yield "", vars(value)
