"""Decisions before a session starts: the list of images and the settings of the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from skal.label import fitting
from skal.label.audit import LARGEST_SHARE, RESERVED, SHARE, reserve_threshold
from skal.label.folder import extensions, is_text, list_images
from skal.label.project import Project, Settings
from skal.label.snapshot import Snapshot
from skal.label.stopping import StopTest


def settle(
    project: Project,
    folder: str | None,
    n_listed: int,
    audit: float | None,
    target: float | None,
    random_state: int | None,
    follow_links: bool,
    network: dict[str, Any] | None,
    is_audited: bool,
) -> Settings:
    """The settings of a project, created or loaded. The key and the size of the reserve are never changed.

    If the network differs from the previous one, the project's model and its predictions are removed.

    Parameters
    ----------
    project : Project
    folder : str or None
    n_listed : int
        Number of images found.
    audit, target, random_state, follow_links
        As in :class:`skal.label.LabelSession`.
    network : dict or None
        As in :class:`skal.label.LabelSession`; empty if the caller provides an estimator instead.
    is_audited : bool
        Whether there is an audit answer already. If so, the target cannot be changed.

    Raises
    ------
    ValueError
        If the project belongs to another folder, the target is changed too late, or the project has no images reserved
        for an audit.
    """
    found = project.load()
    if found is None:
        audit = SHARE if audit is None else audit
        key = os.urandom(32) if random_state is None else np.random.RandomState(random_state).bytes(32)
        found = Settings(folder, key.hex(), reserve_threshold(n_listed) if audit else 0, n_listed, audit)
        found.network = network or {}
    elif found.folder != folder:
        raise ValueError(f"the project {str(project.path)!r} belongs to {found.folder!r}, not to {folder!r}")
    if target is not None and target != found.target:
        if is_audited:
            raise ValueError(
                f"target={target!r} differs from the project's target {found.target!r}, which cannot be changed after "
                "the first audit answer"
            )
        found.target, found.looks = target, list(StopTest.plan(target, expected_reserve(found)).looks)
    if audit is not None and audit > 0 and not found.threshold:
        raise ValueError(f"audit={audit!r}, but the project was created with audit=0.0, so no images are reserved")
    found.audit = found.audit if audit is None else audit
    if network is not None:
        is_other = fitting.resolved(network) != fitting.resolved(found.network) if network else bool(found.network)
        if is_other:
            _forget_model(project)
        found.network = network
    found.follow_links = follow_links
    project.save(found)
    return found


def _forget_model(project: Project) -> None:
    """Remove the model and its predictions. Version numbers continue with the next model."""
    project.model.unlink(missing_ok=True)
    Snapshot(version=Snapshot.load(project.snapshot).version).save(project.snapshot)


def expected_reserve(settings: Settings) -> int:
    """Number of images a project was expected to reserve when it was created. The draw decides the actual number."""
    return round(min(RESERVED, settings.n_listed * LARGEST_SHARE)) if settings.threshold else 0


def find_images(given: Any, follow_links: bool) -> tuple[Path | None, list[str], list[tuple[str, str]]]:
    """The folder, the images, and what was left out with reasons."""
    if isinstance(given, (str, os.PathLike)):
        root = Path(given)
        if not root.is_dir():
            raise ValueError(f"{str(given)!r} is not a folder")
        root = root.resolve()
        paths, left_out = list_images(root, follow_links=follow_links)
        if not paths:
            further = f"; left out: {': '.join(left_out[0])}" if left_out else ""
            looked_for = ", ".join(sorted(extensions()))
            raise ValueError(f"{str(given)!r} contains no images (looked for {looked_for}){further}")
        return root, paths, left_out
    paths = [os.path.abspath(path) for path in given]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} paths are not files; the first is {missing[0]!r}")
    odd = [path for path in paths if not is_text(path)]
    if odd:
        raise ValueError(f"the names of {len(odd)} of {len(paths)} paths are not valid UTF-8; the first is {odd[0]!r}")
    return None, list(dict.fromkeys(paths)), []
