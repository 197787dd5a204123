"""Tables of labels, to and from other programs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

from skal.label.catalogue import Catalogue
from skal.label.state import State, path_of

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A cell that no spreadsheet interprets as a formula.

    Examples
    --------
    >>> safe_cell("=1+1"), safe_cell("cat"), safe_cell(-1.5)
    ("'=1+1", 'cat', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def plain_cell(text: str) -> str:
    """The inverse of :func:`safe_cell`.

    Examples
    --------
    >>> plain_cell("'=1+1"), plain_cell("'quoted'")
    ('=1+1', "'quoted'")
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def write_rows(file: IO[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV with safe cells."""
    csv.writer(file).writerows([safe_cell(cell) for cell in row] for row in rows)


def labels_table(state: State, catalogue: Catalogue) -> pd.DataFrame:
    """All decisions, as in :attr:`skal.label.LabelSession.labels`."""
    import pandas as pd  # takes a quarter of a second, for which the page must not wait

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


def to_label_studio(rows: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Pairs of path and label as Label Studio tasks."""
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
