"""Reading of existing labels from a CSV file, from Label Studio, or from folders named after classes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from skal.label.folder import list_images
from skal.label.tables import plain_cell

_SEVERAL = "several labels per image, which are not supported"


class Found(NamedTuple):
    """Labels of a source.

    Parameters
    ----------
    pairs : list of (path, label)
    left_out : dict of str to int
        Number of entries that are not labels, by reason.
    """

    pairs: list[tuple[str, str]]
    left_out: dict[str, int]


def read_labels(source: str | os.PathLike[str]) -> Found:
    """Pairs of path and label from a CSV file, a Label Studio JSON file, or a folder of class folders.

    Parameters
    ----------
    source : path
        ``.csv`` with columns ``path`` and ``label``; ``.json`` as exported by Label Studio, from which single choices
        are read; or a folder whose images are labelled with the name of the folder they are in.

    Returns
    -------
    found : Found

    Raises
    ------
    ValueError
        If it is none of these, or contains no labels. The message names the file and what is missing.
    """
    path = Path(source)
    if path.is_dir():
        pairs, left_out = _from_folders(path)
    elif not path.is_file():
        raise ValueError(f"{str(source)!r} does not exist")
    else:
        pairs, left_out = _from_label_studio(path) if path.suffix.lower() == ".json" else _from_csv(path)
    if not pairs:
        reasons = "".join(f"; left out: {n} ({reason})" for reason, n in left_out.items())
        raise ValueError(f"{str(source)!r} contains no labels{reasons}")
    return Found(pairs, dict(left_out))


def _from_folders(folder: Path) -> tuple[list[tuple[str, str]], Counter[str]]:
    paths, files = list_images(folder)
    left_out = Counter(reason for _, reason in files)
    pairs = []
    for path in paths:
        if os.sep in path:
            pairs.append((os.path.abspath(folder / path), os.path.basename(os.path.dirname(path))))
        else:
            left_out["no class folder"] += 1
    return pairs, left_out


def _from_csv(path: Path) -> tuple[list[tuple[str, str]], Counter[str]]:
    pairs, left_out = [], Counter[str]()
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not encoded as UTF-8; save it as CSV UTF-8") from error
    reader = csv.DictReader(io.StringIO(content, newline=""))
    missing = {"path", "label"} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"{str(path)!r} has no column {sorted(missing)[0]!r}; its columns are {reader.fieldnames}")
    for row in reader:
        name, label = plain_cell(row["path"] or ""), plain_cell(row["label"] or "")
        if name and label:
            pairs.append((name, label))
        else:
            left_out["no label" if name else "no path"] += 1
    return pairs, left_out


def _from_label_studio(path: Path) -> tuple[list[tuple[str, str]], Counter[str]]:
    pairs, left_out = [], Counter[str]()
    try:
        for task in json.loads(path.read_text(encoding="utf-8")):
            image = task["data"]["image"].removeprefix("file://")
            labels = _labels_of(task)
            if labels is None:
                left_out[_SEVERAL] += 1
            elif not labels:
                left_out["no label"] += 1
            else:
                pairs += [(image, label) for label in labels]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{str(path)!r} is not a Label Studio export: {error}") from error
    return pairs, left_out


def _labels_of(task: dict[str, Any]) -> list[str] | None:
    """The label of a task, or several if annotators differ. None if one of them gave several."""
    labels: dict[str, None] = {}
    for annotation in task.get("annotations", []):
        if annotation.get("was_cancelled"):
            continue
        results = annotation.get("result", [])
        choices = {choice for result in results for choice in result.get("value", {}).get("choices", [])}
        if len(choices) > 1:
            return None
        labels |= dict.fromkeys(choices)
    return list(labels)
