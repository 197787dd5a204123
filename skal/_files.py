"""Atomic file writes, and tensor files with a checksum.

A file is written under a unique temporary name in the same folder, flushed to disk and renamed. A reader sees either
the old file or the new one, even if other processes write or a process is killed. The umask determines its mode.
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
_STALE_SECONDS = 3600  # a temporary file of this age was left by a killed process


@contextmanager
def replace_file(path: StrPath) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends, and is deleted if the block raises.

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
        If the folder is not writable or the disk is full; `path` is then unchanged.

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
        with open(temporary, "xb") as file:  # not tempfile, whose files have mode 0600 regardless of the umask
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
    """Append a line in a single write, so that lines of several processes do not mix, and flush it to disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: StrPath) -> None:
    """Delete temporary files of a folder that are more than an hour old, left by killed processes."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # its writer may have just renamed it
                if _TEMPORARY.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)


def write_tensors(path: StrPath, kind: str, tensors: Mapping[str, torch.Tensor], described: dict[str, Any]) -> None:
    """Write tensors with a description and a checksum of both, as safetensors.

    Parameters
    ----------
    path : path
    kind : str
        Kind of content, such as "source profile". :func:`read_tensors` checks it.
    tensors : dict of str to Tensor
        CPU tensors that do not share memory with each other.
    described : dict
        Must be JSON-serialisable.

    Raises
    ------
    OSError
        If the file cannot be written; an existing file is then unchanged.
    """
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": f"skal {kind}", **described})
    content = save(whole, {"skal": text, "checksum": _checksum(whole, text)})
    with replace_file(path) as file:
        file.write(content)


def read_tensors(path: StrPath, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a file written by :func:`write_tensors`. No code from the file is executed.

    Parameters
    ----------
    path : path
    kind : str

    Returns
    -------
    tensors : dict of str to Tensor
        Copies in memory, independent of the file.
    described : dict

    Raises
    ------
    ValueError
        If the file is of a different kind or damaged.
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
    """As :func:`read_tensors`, but the tensors are memory-mapped."""
    tensors, described, metadata = _mapped(path, kind)
    if not isinstance(described, dict) or described.pop("format", None) != f"skal {kind}":
        raise ValueError(f"{str(path)!r} is not a skal {kind} file")
    if metadata.get("checksum") != _checksum(tensors, metadata["skal"]):
        raise ValueError(f"{str(path)!r} is damaged: its content does not match its checksum")
    return tensors, described


def map_tensor(path: StrPath, kind: str, name: str) -> torch.Tensor:
    """One memory-mapped tensor of a file, without verifying the checksum."""
    tensors, _, _ = _mapped(path, kind)
    if name not in tensors:
        raise ValueError(f"{str(path)!r} is not a skal {kind} file")
    return tensors[name]


def _mapped(path: StrPath, kind: str) -> tuple[dict[str, torch.Tensor], Any, dict[str, str]]:
    """Memory-mapped tensors of a file, their description and the remaining metadata.

    Raises a ValueError that names a damaged file. safetensors verifies the header. Its `get_tensor` is not used because
    torch's C++ code calls Python there, and replaces an interrupt with an error that looks like damage.
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
        with open(path, "rb"):  # raises an OSError with the name of the file if it cannot be opened
            raise ValueError(f"{str(path)!r} is not a skal {kind} file, or is damaged: {error}") from error


def _checksum(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    """Digest of the names, types, shapes and bytes of tensors, and of the description."""
    hasher = xxhash.xxh3_128(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush the rename to disk, which Windows and some network disks do not support."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
