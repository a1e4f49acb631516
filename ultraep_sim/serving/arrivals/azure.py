"""Azure's public LLM inference recordings of 2023: CSV, a clock of 100 ns."""

from __future__ import annotations

import re
from array import array
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ultraep_sim.serving.arrivals.container import Arrivals
from ultraep_sim.serving.arrivals.lines import (
    Lines,
    bad_line,
    check_count,
    check_length,
    check_order,
)

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

# As in 2023-11-16 18:17:03.9799600; up to nanoseconds, and UTC only.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)?", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Nanoseconds of these years fit 64 bits.
_YEARS = range(1970, 2200)


def has_header(line: str) -> bool:
    """Tell whether a first line names at least one of the columns."""
    return any(name in COLUMNS for name in line.split(","))


def read_azure(lines: Lines, path: Path) -> Arrivals:
    """Read a recording.

    Parameters
    ----------
    lines : iterator of (int, str)
        From the header on.
    path : Path
        For messages and the label.

    Returns
    -------
    Arrivals
        Without blocks.

    Raises
    ------
    ArrivalsError
        A column is missing, a row is cut short, not in order of time or there twice, a time or
        length is none, or there is no row.

    Notes
    -----
    Columns may be in any order and others beside them are ignored. At a clock of 100 ns two
    requests may still come at one instant; that their lengths are equal as well is taken for a
    copy. The recordings end without a line end, so a last number that lost its last digits cannot
    be told from a whole one.
    """
    columns, width = _columns(next(lines), path)
    ticks, tokens, outputs = array("q"), array("q"), array("q")
    last, at_once = 0, set[tuple[int, int]]()
    for number, line in lines:
        cells = line.split(",")
        if len(cells) != width:
            remedy = "complete the row or leave it out; the last row of a file cut short is a rest"
            raise bad_line(path, number, f"not the {width} cells of the header", line, remedy)
        when, prompt, answer = (cells[i] for i in columns)
        tick = _ticks(when, number, path)
        lengths = (
            _length(prompt, number, COLUMNS[1], path),
            _length(answer, number, COLUMNS[2], path),
        )
        if tick != last or not ticks:
            check_order(path, number, COLUMNS[0], bool(ticks) and tick < last, when)
            last, at_once = tick, set()
        if lengths in at_once:
            remedy = "leave the copy out; was the file glued together?"
            raise bad_line(path, number, "the same row twice", line, remedy)
        at_once.add(lengths)
        ticks.append(tick)
        tokens.append(lengths[0])
        outputs.append(lengths[1])
        check_count(path, number, len(ticks))
    if not ticks:
        raise bad_line(path, 1, "no row below the header", ",".join(COLUMNS), "record at least one")
    since = np.frombuffer(ticks, np.int64) - ticks[0]
    return Arrivals(
        since / 1e9,
        np.array(tokens, np.int64),
        np.array(outputs, np.int64),
        None,
        f"Azure LLM inference recording {path.name}",
    )


def _columns(first: tuple[int, str], path: Path) -> tuple[list[int], int]:
    number, header = first
    names = header.split(",")
    for name in COLUMNS:
        if names.count(name) != 1:
            problem = "a column is missing" if name not in names else "a column is there twice"
            remedy = "the header is " + ",".join(COLUMNS)
            raise bad_line(path, number, problem, header, remedy, key=name)
    return [names.index(name) for name in COLUMNS], len(names)


def _ticks(text: str, number: int, path: Path) -> int:
    """Return nanoseconds since 1970, exactly."""
    match = _TIME.fullmatch(text)
    problem = "not a time"
    if match is not None and int(text[:4]) not in _YEARS:
        problem = f"not a time from {_YEARS[0]} to {_YEARS[-1]}"
    elif match is not None:
        try:
            since = datetime.fromisoformat(match[1] + "+00:00") - _EPOCH
        except ValueError as error:  # no 13th month, no 61st second
            problem = f"not a time: {error}"
        else:
            fraction = (match[2] or "").ljust(9, "0")
            return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int(fraction)
    remedy = "write it as 2023-11-16 18:17:03.9799600"
    raise bad_line(path, number, problem, text, remedy, key=COLUMNS[0])


def _length(text: str, number: int, column: str, path: Path) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise bad_line(path, number, "not a whole number", text, "write tokens, as 512", key=column)
    return check_length(path, number, column, int(text), text)
