"""What is settled before a session starts: which images there are, and what the project has fixed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from skal.label.audit import LARGEST_SHARE, RESERVED, reserve_threshold
from skal.label.folder import list_images
from skal.label.project import Project, Settings
from skal.label.stopping import StopTest


def settle(
    project: Project,
    folder: str | None,
    n_listed: int,
    audit: float,
    target: float | None,
    random_state: int | None,
    follow_links: bool,
    is_audited: bool,
) -> Settings:
    """The settings of a project, made or found; the key and the size of the reserve are never changed.

    Parameters
    ----------
    project : Project
    folder : str or None
    n_listed : int
        Images found.
    audit, target, random_state, follow_links
        As in :class:`skal.label.LabelSession`.
    is_audited : bool
        Whether there is an audit answer already; the target stays then.

    Raises
    ------
    ValueError
        If the project belongs to another folder, or the target would be changed too late.
    """
    found = project.load()
    if found is None:
        key = os.urandom(32) if random_state is None else np.random.RandomState(random_state).bytes(32)
        found = Settings(folder, key.hex(), reserve_threshold(n_listed) if audit else 0, n_listed, audit)
    elif found.folder != folder:
        raise ValueError(f"the project {str(project.path)!r} belongs to {found.folder!r}, not to {folder!r}")
    if target is not None and target != found.target:
        if is_audited:
            raise ValueError(
                f"target={target!r}, but {found.target!r} was set before the first audit answer; it stays, since a "
                "target chosen afterwards would not be tested"
            )
        found.target, found.looks = target, list(StopTest.plan(target, expected_reserve(found)).looks)
    found.follow_links = follow_links
    project.save(found)
    return found


def expected_reserve(settings: Settings) -> int:
    """Images that a project was expected to reserve when it was made; the draw decides how many they are."""
    return round(min(RESERVED, settings.n_listed * LARGEST_SHARE)) if settings.threshold else 0


def find_images(given: Any, follow_links: bool) -> tuple[Path | None, list[str], list[tuple[str, str]]]:
    """The folder, the images, and what was left out."""
    if isinstance(given, (str, os.PathLike)):
        root = Path(given)
        if not root.is_dir():
            raise ValueError(f"{str(given)!r} is no folder")
        root = root.resolve()
        paths, left_out = list_images(root, follow_links=follow_links)
        return root, paths, left_out
    paths = [os.path.abspath(path) for path in given]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} paths name no file, the first is {missing[0]!r}")
    return None, list(dict.fromkeys(paths)), []
