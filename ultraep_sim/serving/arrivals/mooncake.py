"""Mooncake's recordings: a JSON object a line, a clock of milliseconds, hashes of the prompts."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ultraep_sim.serving.arrivals.container import BLOCK_TOKENS, Arrivals, Blocks
from ultraep_sim.serving.arrivals.lines import (
    Lines,
    bad_line,
    check_count,
    check_length,
    check_order,
)

_KEYS = ("timestamp", "input_length", "output_length")
_BLOCKS = "hash_ids"
# Milliseconds since 1970 stay far below it until the year 30,000, and are exact below 2^53.
_MAX_TIMESTAMP = 1e15
_MAX_ID = (1 << 63) - 1


def read_mooncake(lines: Lines, path: Path) -> Arrivals:
    """Read a recording.

    Parameters
    ----------
    lines : iterator of (int, str)
    path : Path
        For messages and the label.

    Returns
    -------
    Arrivals
        With blocks if the rows have ``hash_ids``.

    Raises
    ------
    ArrivalsError
        A row is no JSON object or is cut short, lacks a key that others have, is not in order of
        time, or holds what is no time, length or list of hashes of so many tokens.

    Notes
    -----
    Rows that are equal in everything are kept: the published conversation recording has such a
    pair, and at a clock that ticks as coarsely as its (times come in steps of about 3 s) two equal
    requests are two requests. Other keys are ignored.
    """
    times, tokens, outputs = array("d"), array("q"), array("q")
    ids, starts = array("q"), array("q", [0])
    hashed = False
    for number, line in lines:
        row = _row(line, number, path)
        when = _time(row, number, path)
        check_order(path, number, _KEYS[0], bool(times) and when < times[-1], row[_KEYS[0]])
        prompt, answer = (_length(row, key, number, path) for key in _KEYS[1:])
        hashed = hashed if times else _BLOCKS in row
        if hashed != (_BLOCKS in row):
            problem = "there in some rows and not in others"
            remedy = "give every row its hash_ids, or none"
            raise bad_line(path, number, problem, sorted(row), remedy, key=_BLOCKS)
        if hashed:
            ids.extend(_block_ids(row, prompt, number, path))
            starts.append(len(ids))
        times.append(when)
        tokens.append(prompt)
        outputs.append(answer)
        check_count(path, number, len(times))
    since = np.array(times, np.float64) - times[0]
    return Arrivals(
        since / 1e3,
        np.array(tokens, np.int64),
        np.array(outputs, np.int64),
        Blocks(np.array(ids, np.int64), np.array(starts, np.int64)) if hashed else None,
        f"Mooncake recording {path.name}",
    )


def _row(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # nested too deep, an integer too long
        remedy = "a whole object a line; the last one of a file cut short is a rest, leave it out"
        raise bad_line(path, number, f"not JSON: {error}", line, remedy) from error
    if not isinstance(row, dict):
        remedy = "one JSON object a line"
        raise bad_line(path, number, "not a JSON object", line, remedy)
    for key in _KEYS:
        if key not in row:
            remedy = "a row has " + ", ".join((*_KEYS, _BLOCKS))
            raise bad_line(path, number, "missing", sorted(row), remedy, key=key)
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key is there twice")
    return row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _time(row: dict[str, Any], number: int, path: Path) -> float:
    value = row[_KEYS[0]]
    # Not isinstance: true is an int to Python.
    if type(value) not in (int, float) or not abs(value) <= _MAX_TIMESTAMP:
        remedy = f"write milliseconds, at most {_MAX_TIMESTAMP:.0e}"
        raise bad_line(path, number, "not a time", value, remedy, key=_KEYS[0])
    return float(value)


def _length(row: dict[str, Any], key: str, number: int, path: Path) -> int:
    value = row[key]
    if type(value) is not int:
        raise bad_line(path, number, "not a whole number", value, "write tokens, as 512", key=key)
    return check_length(path, number, key, value, value)


def _block_ids(row: dict[str, Any], prompt: int, number: int, path: Path) -> list[int]:
    ids = row[_BLOCKS]
    if type(ids) is not list or any(type(i) is not int or not 0 <= i <= _MAX_ID for i in ids):
        remedy = "write a list of whole numbers from 0 up"
        raise bad_line(path, number, "not a list of hashes", ids, remedy, key=_BLOCKS)
    if len(ids) != math.ceil(prompt / BLOCK_TOKENS):
        problem = f"not one hash for every {BLOCK_TOKENS} tokens begun, of {prompt}"
        remedy = f"hash blocks of {BLOCK_TOKENS} tokens, or leave hash_ids out of every row"
        raise bad_line(path, number, problem, len(ids), remedy, key=_BLOCKS)
    return ids
