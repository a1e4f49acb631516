"""Lines of a text file that may be anything at all, and the checks that every format shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ultraep_sim.errors import ArrivalsError
from ultraep_sim.scenario.requests import MAX_PROMPT

MAX_BYTES = 1 << 30
MAX_REQUESTS = 10_000_000
# The block hashes of the longest prompt take about 100 kB.
_MAX_LINE_BYTES = 1 << 20

FORMATS = (
    "give the CSV of the Azure LLM inference recordings (TIMESTAMP,ContextTokens,GeneratedTokens) "
    "or Mooncake's JSONL (timestamp, input_length, output_length, hash_ids), uncompressed"
)

Lines = Iterator[tuple[int, str]]


def numbered_lines(path: Path) -> Lines:
    """Yield the lines of a file, numbered from 1, without their ends.

    Blank lines at the end of the file are left out; the last line needs no end of its own.

    Raises
    ------
    ArrivalsError
        The file is absent, is no regular file, is too large, is not UTF-8, has a line that is too
        long, or a blank line between others.
    """
    try:
        if not path.is_file():  # a pipe would be waited for without end
            problem = "not a regular file" if path.exists() else "no such file"
            raise ArrivalsError(problem, file=path, remedy=FORMATS)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ArrivalsError(
                f"larger than the {MAX_BYTES >> 20} MiB that are read",
                file=path,
                value=size,
                remedy="cut it to the hours you need",
            )
        with path.open("rb") as stream:
            yield from _decoded(stream, path)
    except OSError as error:
        raise ArrivalsError(
            f"cannot be read: {error.strerror}", file=path, remedy="check its permissions"
        ) from error


def _decoded(stream: BinaryIO, path: Path) -> Lines:
    blank = number = 0
    while raw := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > _MAX_LINE_BYTES:
            raise bad_line(path, number, "the line is too long", raw[:16], FORMATS)
        try:
            # A byte order mark may open the file.
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            value = raw[error.start : error.start + 8]
            raise bad_line(path, number, "not UTF-8 text", value, FORMATS) from error
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise bad_line(path, blank, "a blank line between others", "", "delete it")
        yield number, line


def bad_line(
    path: Path, number: int, problem: str, value: object, remedy: str, *, key: str = ""
) -> ArrivalsError:
    """Return the error that names a line and, if given, a key or column of it."""
    place = f"line {number}, {key}" if key else f"line {number}"
    return ArrivalsError(problem, file=path, place=place, value=value, remedy=remedy)


def check_length(path: Path, number: int, key: str, value: int, shown: object) -> int:
    """Return a length in tokens.

    Raises
    ------
    ArrivalsError
        Not from 1 to the longest prompt that is simulated.
    """
    if 1 <= value <= MAX_PROMPT:
        return value
    problem = f"a length is from 1 to {MAX_PROMPT:,} tokens"
    raise bad_line(path, number, problem, shown, "mend the row or leave it out", key=key)


def check_order(path: Path, number: int, key: str, is_before: bool, shown: object) -> None:
    """Refuse a row that is earlier than the one above.

    Rows are not sorted here: a recording out of order is more often damaged or glued together than
    merely unsorted, and whose order counts among equal times would be a guess.

    Raises
    ------
    ArrivalsError
    """
    if is_before:
        raise bad_line(
            path,
            number,
            "earlier than the row above",
            shown,
            f"sort the rows by {key} (keep the order of equal ones) if that is all that is wrong",
            key=key,
        )


def check_count(path: Path, number: int, count: int) -> None:
    """Refuse a recording that is longer than what is simulated.

    Raises
    ------
    ArrivalsError
    """
    if count > MAX_REQUESTS:
        raise bad_line(
            path, number, f"more than {MAX_REQUESTS:,} requests", count, "cut it to fewer hours"
        )
