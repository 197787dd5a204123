"""Class names. Every class can become a folder on every system, so a name that cannot is rejected on entry."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST = 100
_FORBIDDEN = frozenset('/\\<>:"|?*')
_RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in "0123456789¹²³")])


def check_class_name(name: Any, others: Iterable[str] = ()) -> str:
    """A class name in normalised form.

    Parameters
    ----------
    name : str
        Surrounding spaces are removed.
    others : iterable of str, default=()
        Names from which it must not differ only by case, unless it is one of them.

    Returns
    -------
    name : str

    Raises
    ------
    ValueError
        If it is empty, too long, not a safe folder name, or differs from another name only by case.

    Examples
    --------
    >>> check_class_name("  red fox ")
    'red fox'
    >>> check_class_name("../fox")
    Traceback (most recent call last):
    ValueError: class name '../fox' contains '/', which is not allowed in a folder name
    """
    if not isinstance(name, str):
        raise ValueError(f"class name {name!r} is not a string")
    clean = unicodedata.normalize("NFC", name).strip()
    shown = clean if len(clean) <= LONGEST else clean[:20] + "..."
    problem = _problem(clean)
    if problem:
        raise ValueError(f"class name {shown!r} {problem}")
    others = list(others)
    same = next((other for other in others if other.casefold() == clean.casefold()), None)
    if same is not None and clean not in others:
        raise ValueError(f"class name {shown!r} differs from {same!r} only in case")
    return clean


def _problem(name: str) -> str | None:
    if not name:
        return "is empty"
    if len(name) > LONGEST:
        return f"has {len(name)} characters; at most {LONGEST} are allowed"
    bad = next((c for c in name if c in _FORBIDDEN or unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}), None)
    if bad is not None:
        return f"contains {bad!r}, which is not allowed in a folder name"
    if name.startswith(".") or name.endswith("."):
        return "must not start or end with a dot"
    if name.split(".")[0].strip().casefold() in _RESERVED:
        return "is reserved by Windows"
    return None
