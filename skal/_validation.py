"""Checks of options and counts."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_options(**options: tuple[Any, tuple[Any, ...]]) -> None:
    """Raise a ValueError that names the first option with a value that is not allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {allowed}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not an integer of at least {least}")
