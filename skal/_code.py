"""The parts of a function or class that determine its results: its code, and the module-level names it reads."""

from __future__ import annotations

import dis
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_STANDARD = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OWN = os.path.dirname(os.path.realpath(__file__)) + os.sep
#: Attributes of a class that Python adds.
_NO_MEMBERS = frozenset(
    [
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__firstlineno__",
        "__static_attributes__",
        "__abstractmethods__",
        "__slotnames__",
        "_abc_impl",
    ]
)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not set for types that are part of the interpreter


def library_of_module(module: ModuleType | None) -> str | None:
    """Name and version of the library a module belongs to; None for a user's module."""
    if module is None:
        return None
    top = module.__name__.partition(".")[0]
    file = getattr(module, "__file__", None)
    if file is None:
        return _python() if top in sys.stdlib_module_names else None
    return _library(os.path.realpath(file), top)


def library_of_code(code: CodeType) -> str | None:
    """As :func:`library_of_module`, but by the file of the code, because ``functools.wraps`` changes ``__module__``."""
    if code.co_filename.startswith("<frozen "):
        return _python()
    file = os.path.realpath(code.co_filename)
    parts = next((file.partition(place)[2] for place in _INSTALLED if place in file), "")
    return _library(file, parts.partition(os.sep)[0].removesuffix(".py"))


def library_of_class(cls: type) -> str | None:
    """As :func:`library_of_module`; None unless the module's attribute of that name is this class."""
    if not cls.__flags__ & _HEAP_TYPE:
        module = sys.modules.get(cls.__module__)
        return library_of_module(module) or "extension"
    module = sys.modules.get(cls.__module__)
    found: Any = module
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return library_of_module(module) if found is cls else None


def _library(file: str, top: str) -> str | None:
    if file.startswith(_OWN):
        return f"skal {_version('skal')}"
    if any(place in file for place in _INSTALLED):
        return f"{top} {_version(top)}"
    return _python() if file.startswith(_STANDARD) else None


def _python() -> str:
    return f"python {sys.version_info.major}.{sys.version_info.minor}"


@cache
def _version(top: str) -> str:
    """Public version of the package that is imported under this name."""
    version = getattr(sys.modules.get(top), "__version__", None)
    if not isinstance(version, str):
        names = importlib.metadata.packages_distributions().get(top, [])
        version = importlib.metadata.version(names[0]) if names else "of unknown version"
    return version.partition("+")[0]  # CPU and GPU builds of a release have the same version


def code_parts(code: CodeType, doc: str | None = None) -> Iterator[tuple[str, Any]]:
    """Parts of a code object, without file names, line numbers and the docstring `doc`."""
    yield "code", (code.co_code, getattr(code, "co_exceptiontable", b""))
    yield "names", (code.co_names, code.co_freevars, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    yield "arguments", (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    has_doc = doc is not None and bool(code.co_consts) and code.co_consts[0] == doc
    yield "constants", code.co_consts[has_doc:]


def function_parts(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Parts of a function; the names it reads are included only if it belongs to no library."""
    library = library_of_code(function.__code__)
    yield "library", library
    yield from code_parts(function.__code__, function.__doc__)
    yield "defaults", (function.__defaults__, function.__kwdefaults__)
    yield "attributes", vars(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name without a value yet
            yield name, cell.cell_contents
    if library is None:
        yield "", names_read(function.__code__, function.__globals__)


def class_parts(cls: type) -> Iterator[tuple[str, Any]]:
    """Name and version of a library class; bases, methods and attributes of any other class."""
    library = library_of_class(cls)
    if library is not None:
        yield "class", f"{cls.__module__}.{cls.__qualname__} of {library}"
        return
    yield "bases", (type(cls), *cls.__bases__)
    yield "", {name: member for name, member in vars(cls).items() if name not in _NO_MEMBERS}


def names_read(code: CodeType, namespace: dict[str, Any]) -> dict[str, Any]:
    """Module-level values read by a code object and its nested code objects, by name.

    For the user's own modules, these are the attributes that are read (``settings.RATE``). A module imported inside the
    code is represented by its library or its source.
    """
    found: dict[str, Any] = {}
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in namespace:
            name, value = step.argval, namespace[step.argval]
            for following in steps[i + 1 :]:
                attribute = following.argval
                is_read = following.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType)
                if not is_read or library_of_module(value) is not None or not hasattr(value, attribute):
                    break
                name, value = f"{name}.{attribute}", getattr(value, attribute)
            found[name] = value
        elif step.opname == "IMPORT_NAME":
            name = "." * steps[i - 2].argval + step.argval
            found[f"import {name}"] = _imported(name, namespace.get("__package__"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= names_read(constant, namespace)
    return found


def _imported(name: str, package: str | None) -> str | bytes:
    """Library or source of a module, whether or not it is already loaded."""
    try:
        full = importlib.util.resolve_name(name, package)
        spec = sys.modules[full].__spec__ if full in sys.modules else importlib.util.find_spec(full)
    except (ImportError, ValueError):
        return "missing"
    file = None if spec is None else spec.origin
    if file is None or not os.path.isfile(file):
        return file or "missing"
    return _library(os.path.realpath(file), full.partition(".")[0]) or Path(file).read_bytes()
