"""Files that are written whole or not at all, and tensors in files that notice damage.

A file is written under a temporary name of its own in the same folder, flushed to the disk and renamed. A reader sees
the old file or the new one, whoever else writes and whenever a process is killed. Its mode is the one the umask gives.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

StrPath = str | os.PathLike[str]

_TEMPORARY = re.compile(r"\.skal-[0-9a-f]{32}\.tmp")
_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
_STALE_SECONDS = 3600  # a temporary file of this age belongs to a process that was killed


@contextmanager
def replace_file(path: StrPath) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends, and is gone if it raises.

    Parameters
    ----------
    path : path
        Its folder must exist.

    Yields
    ------
    file : binary file

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full; `path` is then as it was.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers"
    >>> with replace_file(path) as file:
    ...     _ = file.write(b"1 2 3")
    >>> path.read_bytes()
    b'1 2 3'
    """
    target = Path(path)
    temporary = target.with_name(f".skal-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:  # not tempfile, whose files have mode 0600 whatever the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def append_line(path: StrPath, line: str) -> None:
    """Append a line in one write and flush it to the disk, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: StrPath) -> None:
    """Delete temporary files that processes killed more than an hour ago have left in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # its writer has just renamed it
                if _TEMPORARY.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)


def write_tensors(path: StrPath, kind: str, tensors: Mapping[str, torch.Tensor], described: dict[str, Any]) -> None:
    """Write tensors with a description and a checksum of both, as safetensors.

    Parameters
    ----------
    path : path
    kind : str
        What the file holds, such as "source profile"; :func:`read_tensors` asks for the same.
    tensors : dict of str to Tensor
        On the CPU; none shares its memory with another.
    described : dict
        What JSON can hold.

    Raises
    ------
    OSError
        If the file cannot be written; what was there before is then unchanged.
    """
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": f"skal {kind}", **described})
    content = save(whole, {"skal": text, "checksum": _checksum(whole, text)})
    with replace_file(path) as file:
        file.write(content)


def read_tensors(path: StrPath, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`write_tensors` wrote; runs no code from the file.

    Parameters
    ----------
    path : path
    kind : str

    Returns
    -------
    tensors : dict of str to Tensor
        In memory, whatever becomes of the file.
    described : dict

    Raises
    ------
    ValueError
        If the file is of another kind or damaged.
    OSError
        If it does not exist or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers"
    >>> write_tensors(path, "example", {"a": torch.ones(2)}, {"made": "by hand"})
    >>> read_tensors(path, "example")
    ({'a': tensor([1., 1.])}, {'made': 'by hand'})
    """
    tensors, described = map_tensors(path, kind)
    return {name: tensor.clone() for name, tensor in tensors.items()}, described


def map_tensors(path: StrPath, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As :func:`read_tensors`, but tensors are memory maps."""
    tensors, described, metadata = _mapped(path, kind)
    if not isinstance(described, dict) or described.pop("format", None) != f"skal {kind}":
        raise ValueError(f"{str(path)!r} is no {kind} written by skal")
    if metadata.get("checksum") != _checksum(tensors, metadata["skal"]):
        raise ValueError(f"{str(path)!r} is damaged: its content does not match its checksum")
    return tensors, described


def map_tensor(path: StrPath, kind: str, name: str) -> torch.Tensor:
    """One tensor of a file as a memory map, without verifying the checksum."""
    tensors, _, _ = _mapped(path, kind)
    if name not in tensors:
        raise ValueError(f"{str(path)!r} is no {kind} written by skal")
    return tensors[name]


def _mapped(path: StrPath, kind: str) -> tuple[dict[str, torch.Tensor], Any, dict[str, str]]:
    """Tensors of a file as memory maps, their description and all text beside them; a ValueError names a damaged file.

    safetensors verifies the header. The tensors are not made by its own `get_tensor`, where torch's C++ code calls
    Python: an interrupt that comes there is replaced with an error, which looks like damage.
    """
    name = os.fspath(path)
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
        described = json.loads(metadata.get("skal", "{}"))
        whole = torch.from_file(name, shared=False, size=os.path.getsize(name), dtype=torch.uint8)
        start = 8 + int.from_bytes(whole[:8].numpy().tobytes(), "little")
        header = json.loads(whole[8:start].numpy().tobytes())
        header.pop("__metadata__", None)
        tensors = {}
        for key, entry in sorted(header.items()):
            first, last = entry["data_offsets"]
            values = whole[start + first : start + last].view(_TYPES[entry["dtype"]])
            tensors[key] = values.reshape(entry["shape"])
        return tensors, described, metadata
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        with open(path, "rb"):  # the OSError of a file that cannot be opened names it
            raise ValueError(f"{str(path)!r} is no {kind} written by skal, or is damaged: {error}") from error


def _checksum(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """A digest of names, types, shapes and bytes, and of the description."""
    hasher = xxhash.xxh3_128(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush the new name itself; Windows and some network disks cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
