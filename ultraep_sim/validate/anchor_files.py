"""The published figures that ship with the package; see ``anchors/README.md`` for their sources."""

from __future__ import annotations

import csv
from pathlib import Path

FOLDER = Path(__file__).with_name("anchors")


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of one published table, as text.

    Parameters
    ----------
    name : str
        Without ``.csv``.
    """
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    """Read a cell; an empty one was not published."""
    return float(text) if text.strip() else None
