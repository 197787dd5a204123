"""Tables of labels, to and from other programs."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from skal.label.catalogue import Catalogue
from skal.label.state import State, path_of

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula.

    Examples
    --------
    >>> safe_cell("=1+1"), safe_cell("cat"), safe_cell(-1.5)
    ("'=1+1", 'cat', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def plain_cell(text: str) -> str:
    """What :func:`safe_cell` was given.

    Examples
    --------
    >>> plain_cell("'=1+1"), plain_cell("'quoted'")
    ('=1+1', "'quoted'")
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def write_rows(file: IO[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows as CSV, with safe cells."""
    csv.writer(file).writerows([safe_cell(cell) for cell in row] for row in rows)


def labels_table(state: State, catalogue: Catalogue) -> pd.DataFrame:
    """Everything decided, as :attr:`skal.label.LabelSession.labels`."""
    import pandas as pd  # takes a quarter of a second, which the page does not wait for

    rows = []
    for image, decision in state.decisions().items():
        event, item = decision.event, catalogue.items.get(image)
        rows.append(
            {
                "path": path_of(event, image) if item is None else item.path,
                "label": decision.label or "",
                "decision": decision.kind,
                "why": event.get("why", event["kind"]),
                "image": image,
                "tab": event.get("tab", ""),
                "seconds": event.get("seconds"),
                "time": event.get("time"),
            }
        )
    return pd.DataFrame(rows, columns=["path", "label", "decision", "why", "image", "tab", "seconds", "time"])


def read_labels(source: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Pairs of path and label from a CSV file, a Label Studio JSON file, or a folder of class folders.

    Parameters
    ----------
    source : path
        ``.csv`` with columns ``path`` and ``label``; ``.json`` as Label Studio exports it, of which single choices are
        read; or a folder, whose images are labelled with the folder they are in.

    Raises
    ------
    ValueError
        If it is none of these; the message names the file and what is missing.
    """
    path = Path(source)
    if path.is_dir():
        return _from_folders(path)
    if not path.is_file():
        raise ValueError(f"{str(source)!r} does not exist")
    if path.suffix.lower() == ".json":
        return _from_label_studio(path)
    return _from_csv(path)


def _from_folders(folder: Path) -> list[tuple[str, str]]:
    from skal.label.folder import list_images

    paths, _ = list_images(folder)
    return [
        (os.path.abspath(folder / path), os.path.basename(os.path.dirname(path))) for path in paths if os.sep in path
    ]


def _from_csv(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"path", "label"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{str(path)!r} has no column {sorted(missing)[0]!r}; it has {reader.fieldnames}")
        rows = [(plain_cell(row["path"] or ""), plain_cell(row["label"] or "")) for row in reader]
    return [(name, label) for name, label in rows if name and label]


def _from_label_studio(path: Path) -> list[tuple[str, str]]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        found = [_from_task(task) for task in tasks]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{str(path)!r} is no export of Label Studio: {error}") from error
    return [pair for pair in found if pair is not None]


def _from_task(task: dict[str, Any]) -> tuple[str, str] | None:
    """Path and label of a task; None where it has no annotation, or several labels."""
    image = task["data"]["image"]
    results = [result for annotation in task.get("annotations", []) for result in annotation.get("result", [])]
    choices = {choice for result in results for choice in result.get("value", {}).get("choices", [])}
    return (image.removeprefix("file://"), choices.pop()) if len(choices) == 1 else None


def to_label_studio(rows: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Pairs of path and label as Label Studio's tasks."""
    return [
        {
            "data": {"image": path},
            "annotations": [
                {
                    "result": [
                        {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
                    ]
                }
            ],
        }
        for path, label in rows
    ]
