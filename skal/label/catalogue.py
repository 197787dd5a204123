"""The images of a project: each content once, in keyed order, with its duplicates, and which are reserved."""

from __future__ import annotations

import json
import os
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from skal.label.audit import position
from skal.label.folder import Fingerprint, content_hash, is_inside, read_fingerprint
from skal.label.looks import Looks


@dataclass(eq=False, slots=True)
class Item:
    """An image.

    Parameters
    ----------
    id : str
        Hash of its content.
    path : str
        As listed: relative to the folder, or absolute.
    place : int
        Of the path in keyed order.
    is_reserved : bool
        Whether it is kept for the audit.
    stamp : (int, int)
        Size and time of change of the file when it was read.
    is_shadow : bool
        Whether it is a near-duplicate of a reserved image, and so neither asked nor trained on.
    leader : str or None
        The image that it is a near-duplicate of, and is labelled with.
    followers : list of str
        Its own near-duplicates.
    """

    id: str
    path: str
    place: int
    is_reserved: bool
    stamp: tuple[int, int]
    is_shadow: bool = False
    leader: str | None = None
    followers: list[str] = field(default_factory=list)


class Catalogue:
    """Images by content, in the order in which they were visited.

    Parameters
    ----------
    root : Path or None
        The folder that relative paths belong to; None for absolute paths.
    key : bytes
        Of the keyed order.
    threshold : int
        Images whose content has a position below it are reserved.
    cache : Path
        A file that remembers what was read, so that a later session need not read it again.

    Attributes
    ----------
    items : dict of str to Item
    order : list of Item
    reserved : list of Item
        In keyed order.
    duplicates : list of (path, path)
        Files with the content of another one, and the first such.
    unreadable : dict of str to str
        Paths, and why.
    """

    def __init__(self, root: Path | None, key: bytes, threshold: int, cache: Path):
        self.root, self.key, self.threshold = root, key, threshold
        self.items: dict[str, Item] = {}
        self.order: list[Item] = []
        self.reserved: list[Item] = []
        self.duplicates: list[tuple[str, str]] = []
        self.unreadable: dict[str, str] = {}
        self._looks = Looks()
        self._remembered = _read_cache(cache)
        self._cache: IO[str] = open(cache, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)

    def close(self) -> None:
        self._cache.close()

    @property
    def n_remembered(self) -> int:
        """Files that earlier sessions read, and this one has not come to yet."""
        return len(self._remembered)

    def place(self, path: str) -> int:
        """Of a path in keyed order."""
        return position(b"path:" + os.fsencode(path), self.key)

    def file(self, path: str) -> str:
        """The file of a listed path."""
        return path if self.root is None else os.path.join(self.root, path)

    def read(self, path: str) -> tuple[Fingerprint | None, tuple[int, int]]:
        """What identifies the image of a path, from memory where the file has not changed; None if unreadable."""
        stamp = self.stamp(path)
        if stamp is None:
            self.unreadable[path] = "the file is gone"
            return None, (0, 0)
        known = self._remembered.pop(path, None)
        if known is not None and tuple(known["stamp"]) == stamp:
            fingerprint, reason = _from_record(known)
        else:
            fingerprint, reason = None, None
            try:
                fingerprint = read_fingerprint(self.file(path))
            except ValueError as error:
                reason = str(error)
            self._cache.write(json.dumps(_to_record(path, stamp, fingerprint, reason)) + "\n")
        if fingerprint is None:
            self.unreadable[path] = reason or "unreadable"
        return fingerprint, stamp

    def recall(self) -> None:
        """Take in everything that earlier sessions read, without looking at the files."""
        for path in in_keyed_order(list(self._remembered), self):
            record = self._remembered.pop(path)
            fingerprint, reason = _from_record(record)
            if fingerprint is None:
                self.unreadable[path] = reason or "unreadable"
            else:
                self.add(path, fingerprint, (record["stamp"][0], record["stamp"][1]))

    def add(
        self, path: str, fingerprint: Fingerprint, stamp: tuple[int, int], *, may_be_reserved: bool = True
    ) -> Item | None:
        """Take an image in.

        Returns
        -------
        item : Item or None
            None where the content is known.
        """
        known = self.items.get(fingerprint.content)
        if known is not None:
            if known.path != path:
                self.duplicates.append((path, known.path))
            return None
        is_reserved = may_be_reserved and self._is_below(fingerprint.content)
        item = Item(fingerprint.content, path, self.place(path), is_reserved, stamp)
        self._relate(item, [self.order[i] for i in self._looks.add(fingerprint)])
        self.items[item.id] = item
        self.order.append(item)
        if is_reserved:
            insort(self.reserved, item, key=_place)
        return item

    def _is_below(self, content: str) -> bool:
        return position(b"content:" + content.encode(), self.key) < self.threshold

    def is_reserved(self, content: str) -> bool:
        """Whether an image is kept for the audit, also one that is not read yet."""
        item = self.items.get(content)
        return self._is_below(content) if item is None else item.is_reserved

    def content_of(self, path: str) -> str | None:
        """The content of a file of the folder, by its relative or absolute path; None where there is none."""
        file = os.path.realpath(self.file(path))
        if self.root is not None and not is_inside(file, self.root):
            return None
        try:
            return content_hash(Path(file).read_bytes())
        except (OSError, ValueError):
            return None

    def _relate(self, item: Item, near: list[Item]) -> None:
        """Groups never mix reserved and other images: those near a reserved one are left out altogether."""
        if item.is_reserved:
            for other in near:
                if not other.is_reserved:
                    other.is_shadow = True
        elif any(other.is_reserved for other in near):
            item.is_shadow = True
        else:
            leader = next((other for other in near if other.leader is None and not other.is_shadow), None)
            if leader is not None:
                item.leader = leader.id
                leader.followers.append(item.id)

    def has_changed(self, item: Item) -> bool:
        """Whether the file is not the one that was read."""
        return self.stamp(item.path) != item.stamp

    def stamp(self, path: str) -> tuple[int, int] | None:
        """Size and time of change of a file; None where there is none."""
        try:
            info = os.stat(self.file(path))
        except OSError:
            return None
        return info.st_size, info.st_mtime_ns

    def drop(self, item: Item, reason: str) -> None:
        """Set aside an image whose file is gone, damaged or replaced."""
        self.unreadable[item.path] = reason
        if self.items.pop(item.id, None) is not None and item.is_reserved:
            self.reserved.remove(item)


def _place(item: Item) -> int:
    return item.place


def in_keyed_order(paths: Iterable[str], catalogue: Catalogue) -> list[str]:
    """Paths in the order in which they are visited."""
    return sorted(paths, key=catalogue.place)


def _read_cache(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier sessions read; a line that is not whole is as if it were not there."""
    records: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return records
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                records[record["path"]] = record
            except (ValueError, KeyError, TypeError):
                continue
    return records


def _to_record(
    path: str, stamp: tuple[int, int], fingerprint: Fingerprint | None, reason: str | None
) -> dict[str, Any]:
    if fingerprint is None:
        return {"path": path, "stamp": stamp, "error": reason}
    looks = {"content": fingerprint.content, "hash": fingerprint.hash.hex(), "grey": fingerprint.grey.hex()}
    return {"path": path, "stamp": stamp, **looks}


def _from_record(record: dict[str, Any]) -> tuple[Fingerprint | None, str | None]:
    if "content" not in record:
        return None, record.get("error")
    return Fingerprint(record["content"], bytes.fromhex(record["hash"]), bytes.fromhex(record["grey"])), None
