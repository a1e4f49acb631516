"""What was found wrong with the rows of a log, and what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

#: Every disease by name: what it looks like, and the remedy.
DISEASES: dict[str, tuple[str, str]] = {
    "missing_time": ("no time: empty, NaN, zero or infinite", "mend the logger"),
    "clock_jump": (
        "a negative or outlying time, or a start before the previous one",
        "time with a monotonic clock; keep out steps that stall (checkpoints, evaluation)",
    ),
    "unit_seconds": (
        "seconds where milliseconds belong",
        "--repair unit_seconds, or mend the file",
    ),
    "unit_microseconds": (
        "microseconds where milliseconds belong",
        "--repair unit_microseconds, or mend the file",
    ),
    "swapped_ranks": (
        "two ranks whose loads fit each other's times",
        "--repair swapped_ranks, or mend the rank numbers of the loads",
    ),
    "duplicate_row": ("the same thing twice", "write each row once; the first is kept"),
    "missing_rank": ("a rank is missing where others are", "join the files of all ranks"),
    "uneven_steps": ("the rows of a rank end before the others' do", "join whole files"),
    "missing_load": ("no load: empty, NaN, negative or infinite", "give load, or --trace"),
    "idle_rank": ("a load of zero, for which nothing is launched", "none is needed"),
}
#: Those that can be repaired on request.
REPAIRS = ("unit_seconds", "unit_microseconds", "swapped_ranks")


@dataclass(frozen=True)
class Finding:
    """One disease.

    Parameters
    ----------
    disease : str
        One of `DISEASES`.
    what : str
        This case of it.
    rows : tuple of int
        Numbers in the file: 1 is the first under the header. Empty where rows are missing.
    done : {"excluded", "repaired", "kept"}
        Whether the rows are in the fit.
    pair : (int, int), optional
        The swapped ranks.
    """

    disease: str
    what: str
    rows: tuple[int, ...]
    done: str = "excluded"
    pair: tuple[int, int] | None = None

    def repaired(self) -> Finding:
        """Return the finding once its rows are mended."""
        return replace(self, done="repaired")

    def __str__(self) -> str:
        place = f"rows {spans(self.rows)}: " if self.rows else ""
        text = f"{self.disease}: {place}{self.what}; {self.done}"
        return text if self.done == "repaired" else f"{text}; {DISEASES[self.disease][1]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for a report."""
        return {
            "disease": self.disease,
            "what": self.what,
            "rows": spans(self.rows, most=10**9),
            "count": len(self.rows),
            "done": self.done,
            "remedy": DISEASES[self.disease][1],
        }


def spans(rows: Sequence[int], most: int = 12) -> str:
    """Write row numbers short.

    Examples
    --------
    >>> spans([1, 2, 3, 7])
    '1-3, 7'
    """
    out: list[list[int]] = []
    for row in sorted(rows):
        if out and row == out[-1][1] + 1:
            out[-1][1] = row
        else:
            out.append([row, row])
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in out]
    rest = f" and {len(words) - most} more places" if len(words) > most else ""
    return ", ".join(words[:most]) + rest
