"""Kinds of file damage: from a full disk, a failing disk, an interrupted copy, and people."""

import json
import shutil

import torch
from safetensors import safe_open
from safetensors.torch import save


def _changed(change):
    def damage(path):
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content))

    return damage


def _zeroed(content):
    start = int(len(content) * 0.6)
    content[start : start + 32] = bytes(32)
    return content


def _flipped(content):
    content[-1] ^= 0x40
    return content


def _folder(path):
    path.unlink()
    path.mkdir()


def _other_text(text):
    def damage(path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        path.write_bytes(save(tensors, {**metadata, "skal": text(metadata["skal"])}))

    return damage


def _incomplete(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        names = list(file.keys())
        tensors = {name: file.get_tensor(name).clone() for name in names[1:]}
    path.write_bytes(save(tensors, metadata))


#: Damage to any file.
DAMAGES = {
    "truncated": _changed(lambda content: content[: len(content) // 2]),
    "one byte short": _changed(lambda content: content[:-1]),
    "empty": _changed(lambda content: b""),
    "junk": _changed(lambda content: bytes(range(256)) * (len(content) // 256 + 1)),
    "zeros": _changed(lambda content: bytes(len(content))),
    "a zeroed block": _changed(_zeroed),
    "a flipped bit": _changed(_flipped),
    "longer": _changed(lambda content: content + b"\0\0"),
    "a text": _changed(lambda content: b"version https://git-lfs.github.com/spec/v1\n"),
}
#: Damage to files written by `write_tensors`.
TENSOR_DAMAGES = {
    **DAMAGES,
    "wrong JSON": _other_text(lambda text: text[:-2]),
    "JSON of a list": _other_text(lambda text: "[1]"),
    "another version": _other_text(lambda text: text.replace("skal ", "skal 9 ")),
    "another description": _other_text(lambda text: json.dumps({**json.loads(text), "added": 1})),
    "incomplete": _incomplete,
    "no description": lambda path: path.write_bytes(save({"rows": torch.ones(3)})),
}
#: Damage that raises a specific OSError instead of a ValueError.
GONE = {"deleted": lambda path: path.unlink(), "a folder": _folder}


def swap(first, second):
    """Exchange two files."""
    aside = first.with_name("aside")
    shutil.move(first, aside)
    shutil.move(second, first)
    shutil.move(aside, second)
