"""The images of a project: each content once, in keyed order, with its duplicates and whether it is reserved."""

from __future__ import annotations

import contextlib
import json
import os
from bisect import insort
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from skal.label.audit import position
from skal.label.folder import LEAVES, Fingerprint, is_inside, read_fingerprint
from skal.label.looks import Looks

_HASHES = {"content", "hash", "grey"}


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
        Place of the path in keyed order.
    is_reserved : bool
        Whether it is reserved for the audit.
    stamp : (int, int)
        Size and modification time of the file when it was read.
    near : str
        The image that it was found to be a near-duplicate of, if any.
    is_shadow : bool
        Whether it is a near-duplicate of a reserved image, and so neither asked nor trained on.
    leader : str or None
        The image that it is a near-duplicate of and labelled together with.
    followers : list of str
        Its own near-duplicates.
    """

    id: str
    path: str
    place: int
    is_reserved: bool
    stamp: tuple[int, int]
    near: str = ""
    is_shadow: bool = False
    leader: str | None = None
    followers: list[str] = field(default_factory=list)


class Recalled(NamedTuple):
    """A file that an earlier session read: its path, its stamp then, and its content (None if it was unreadable)."""

    path: str
    stamp: tuple[int, int]
    content: str | None


class Catalogue:
    """Images by content, in the order they were visited.

    Parameters
    ----------
    root : Path or None
        The folder that relative paths belong to; None for absolute paths.
    key : bytes
        Key of the keyed order.
    threshold : int
        Images whose content has a position below this are reserved.
    cache : Path
        A file that records what was read and in which order, so that a later session need not read it again.
    decided : container of str, default=()
        Images that have labels. An image that is found after its near-duplicate was labelled is asked separately.
    follow_links : bool, default=False
        Whether files of the folder may be links that leave it.

    Attributes
    ----------
    items : dict of str to Item
    order : list of Item
        All that were ever added; see :meth:`holds`.
    reserved : list of Item
        In keyed order.
    duplicates : list of (path, path)
        Files whose content is that of an earlier one, and the first such file.
    unreadable : dict of str to str
        Paths, and the reason for each.
    """

    def __init__(
        self,
        root: Path | None,
        key: bytes,
        threshold: int,
        cache: Path,
        decided: Container[str] = (),
        follow_links: bool = False,
    ):
        self.root, self.key, self.threshold, self._decided = root, key, threshold, decided
        self._follow_links = follow_links
        self.items: dict[str, Item] = {}
        self.order: list[Item] = []
        self.reserved: list[Item] = []
        self.duplicates: list[tuple[str, str]] = []
        self.unreadable: dict[str, str] = {}
        self._looks = Looks()
        self._path = cache
        self._cache: IO[str] = open(cache, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._cache.close()

    def place(self, path: str) -> int:
        """Place of a path in keyed order."""
        return position(b"path:" + os.fsencode(path), self.key)

    def file(self, path: str) -> str:
        """The file of a listed path."""
        return path if self.root is None else os.path.join(self.root, path)

    def read(self, path: str) -> tuple[Fingerprint | None, tuple[int, int]]:
        """Fingerprint of the image at a path (None if it is unreadable), and the stamp of the file."""
        stamp = self.stamp(path)
        if stamp is None:
            self.unreadable[path] = "the file no longer exists"
            return None, (0, 0)
        try:
            if not self._may_be_read(path):
                raise ValueError(LEAVES)
            return read_fingerprint(self.file(path)), stamp
        except ValueError as error:
            self.unreadable[path] = str(error)
            self._remember({"path": path, "stamp": stamp, "error": str(error)})
            return None, stamp

    def _may_be_read(self, path: str) -> bool:
        """False for a file that has become a link out of the folder since it was listed."""
        is_listed = self.root is not None and not os.path.isabs(path)
        return self._follow_links or not is_listed or is_inside(self.file(path), str(self.root))

    def _remember(self, record: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a full disk: a later session reads the file again
            self._cache.write(json.dumps(record) + "\n")

    def recall(self, listed: Container[str] | None = None) -> list[Recalled]:
        """Load what earlier sessions read, in the same order, without accessing the files.

        Parameters
        ----------
        listed : container of str or None, default=None
            Files that still exist; None loads all.

        Returns
        -------
        recalled : list of Recalled
        """
        recalled = []
        for path, record in _read_cache(self._path).items():
            if listed is not None and path not in listed:
                continue
            stamp = (int(record["stamp"][0]), int(record["stamp"][1]))
            content = record.get("content")
            if content is None:
                self.unreadable[path] = record["error"]
            else:
                fingerprint = Fingerprint(content, bytes.fromhex(record["hash"]), bytes.fromhex(record["grey"]))
                may_be_reserved = record.get("may_be_reserved", True)
                self._add(path, fingerprint, stamp, may_be_reserved, record.get("near"))
            recalled.append(Recalled(path, stamp, content))
        return recalled

    def add(
        self, path: str, fingerprint: Fingerprint, stamp: tuple[int, int], *, may_be_reserved: bool = True
    ) -> Item | None:
        """Add an image and record it in the cache.

        Returns
        -------
        item : Item or None
            None if the content is already known.
        """
        item = self._add(path, fingerprint, stamp, may_be_reserved)
        record: dict[str, Any] = {"path": path, "stamp": stamp, "content": fingerprint.content}
        record |= {"hash": fingerprint.hash.hex(), "grey": fingerprint.grey.hex()}
        if item is not None and not item.is_reserved:  # for reserved ones, near-duplicates are searched again
            record["near"] = item.near
        self._remember(record if may_be_reserved else {**record, "may_be_reserved": False})
        return item

    def _add(
        self,
        path: str,
        fingerprint: Fingerprint,
        stamp: tuple[int, int],
        may_be_reserved: bool,
        near: str | None = None,
    ) -> Item | None:
        """Add an image. `near` is the image it was found to be a near-duplicate of, "" for none."""
        known = self.items.get(fingerprint.content)
        if known is not None:
            if known.path != path:
                self.duplicates.append((path, known.path))
            return None
        is_reserved = may_be_reserved and self._is_below(fingerprint.content)
        item = Item(fingerprint.content, path, self.place(path), is_reserved, stamp)
        if near is None:
            self._relate(item, list(dict.fromkeys(self.order[i].id for i in self._looks.add(fingerprint))))
        else:
            self._looks.put(fingerprint)
            self._attach(item, near)
        self.items[item.id] = item
        self.order.append(item)
        if is_reserved:
            insort(self.reserved, item, key=_place)
        return item

    def _is_below(self, content: str) -> bool:
        return position(b"content:" + content.encode(), self.key) < self.threshold

    def is_reserved(self, content: str) -> bool:
        """Whether an image is reserved for the audit, even if it is not read yet."""
        item = self.items.get(content)
        return self._is_below(content) if item is None else item.is_reserved

    def name_of(self, path: str) -> str | None:
        """Listed name of a file, given its relative or absolute path; None if it is not below the folder."""
        if self.root is None:
            return os.path.abspath(path)
        file, below = os.path.normpath(self.file(path)), os.path.join(self.root, "")
        if not file.startswith(below):
            file = os.path.realpath(file)
        if not file.startswith(below) or not (self._follow_links or is_inside(file, self.root)):
            return None
        return os.path.relpath(file, self.root)

    def holds(self, item: Item) -> bool:
        """Whether an item is current. :attr:`order` also has those that were dropped, whose content may be back."""
        return self.items.get(item.id) is item

    def contents(self) -> dict[str, str]:
        """The content of every file that has been read, by path."""
        found = {item.path: item.id for item in self.items.values()}
        return found | {path: found[first] for path, first in self.duplicates if first in found}

    def _relate(self, item: Item, near: list[str]) -> None:
        """Groups never mix reserved and other images: near-duplicates of a reserved image are excluded."""
        others = [self.items[image] for image in near if image in self.items]
        if item.is_reserved:
            for other in others:
                other.is_shadow = other.is_shadow or not other.is_reserved
            return
        held = next((image for image in near if self.is_reserved(image)), None)
        self._attach(item, held or next((other.id for other in others if self._leads(other, item)), ""))

    def _attach(self, item: Item, near: str) -> None:
        """Exclude an image that is near a reserved one, or add it to the group of another."""
        item.near = near
        leader = self.items.get(near)
        if near and self.is_reserved(near):
            item.is_shadow = True
        elif leader is not None and leader.leader is None and not leader.is_shadow:
            item.leader = near
            leader.followers.append(item.id)

    def _leads(self, other: Item, item: Item) -> bool:
        """Whether `item` gets its label together with `other`; not if `other` is already labelled."""
        is_late = other.id in self._decided and item.id not in self._decided
        return other.leader is None and not other.is_shadow and not is_late

    def has_changed(self, item: Item) -> bool:
        """Whether the file has changed since it was read."""
        return self.stamp(item.path) != item.stamp

    def stamp(self, path: str) -> tuple[int, int] | None:
        """Size and modification time of a file; None if it does not exist."""
        try:
            info = os.stat(self.file(path))
        except OSError:
            return None
        return info.st_size, info.st_mtime_ns

    def drop(self, path: str, image: str | None, reason: str) -> list[str]:
        """Set aside a file that is gone, damaged or replaced.

        Parameters
        ----------
        path : str
        image : str or None
            The image that was read from it.
        reason : str

        Returns
        -------
        others : list of str
            Files with the same content, which must be read again.
        """
        self.unreadable[path] = reason
        item = None if image is None else self.items.get(image)
        if item is None or item.path != path:
            self.duplicates = [pair for pair in self.duplicates if pair[0] != path]
            return []
        del self.items[item.id]
        if item.is_reserved:
            self.reserved.remove(item)
        others = [other for other, first in self.duplicates if first == path]
        self.duplicates = [pair for pair in self.duplicates if pair[1] != path]
        return others


def _place(item: Item) -> int:
    return item.place


def in_keyed_order(paths: Iterable[str], catalogue: Catalogue) -> list[str]:
    """Paths in the order they are visited."""
    return sorted(paths, key=catalogue.place)


def _read_cache(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier sessions read, by path. Incomplete lines are ignored."""
    records: dict[str, dict[str, Any]] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                records.pop(record["path"], None)  # read again: the last place counts
                if len(record["stamp"]) == 2 and (set(record) >= _HASHES or "error" in record):
                    records[record["path"]] = record
            except (ValueError, KeyError, TypeError):
                continue
    return records
