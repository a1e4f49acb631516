"""The measurement document: a reader that checks everything in it.

Plain dataclasses: machines with GPUs are often locked down and have no validation library. What
rows there are and what each holds is in `rows`; the reader refuses unknown and missing keys, wrong
types, numbers out of range, and anything that is not finite.

Version 2; 1 lacked the loads of experts and instances. A field is never given another meaning: what
changes makes a new version.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Union

from ultraep_sim.errors import InputError

from .rows import FABRICS, KINDS, SCHEMA, Machine, Measurements, Row


def load(path: str | Path) -> Measurements:
    """Read a measurement file.

    Raises
    ------
    InputError
        Naming the file, the place, the value and the remedy.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"cannot be read: {reason}", file=path, remedy="give a file written by `bench --out`"
        ) from error
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise InputError(
            f"not JSON: {error}", file=path, remedy="give a file written by `bench --out`"
        ) from error
    try:
        return parse(document)
    except InputError as error:
        raise error.at(file=path) from None


def parse(document: object) -> Measurements:
    """Check a document; see `load`."""
    if not isinstance(document, dict):
        raise InputError(
            "not a measurement document", value=type(document).__name__,
            remedy="the top level must be an object",
        )  # fmt: skip
    if document.get("schema") != SCHEMA:
        raise InputError(
            "another schema", place="schema", value=document.get("schema"),
            remedy=f"this version reads {SCHEMA}; measure again or use the version that wrote it",
        )  # fmt: skip
    rest = {key: value for key, value in document.items() if key not in ("schema", "rows")}
    _keys(Measurements, document, "", extra={"schema"})
    rows = document["rows"]
    if not isinstance(rows, list) or not rows:
        raise InputError("no rows", place="rows", value=rows, remedy="measure something")
    out = Measurements(
        _text(rest["date"], "date"),
        _choice(rest["fabric"], FABRICS, "fabric"),
        _value(int, rest["seed"], "seed", {"least": 0}),
        _build(Machine, rest["machine"], "machine"),
        [_row(row, f"rows[{at}]") for at, row in enumerate(rows)],
    )
    _check_paths(out)
    return out


def _row(row: object, place: str) -> Row:
    kind = row.get("kind") if isinstance(row, dict) else None
    if not isinstance(row, dict) or kind not in KINDS:
        raise InputError(
            "no such kind of row", place=f"{place}.kind", value=kind,
            remedy=f"one of {', '.join(KINDS)}",
        )  # fmt: skip
    built: Row = _build(KINDS[kind], {k: v for k, v in row.items() if k != "kind"}, place)
    time = built.time
    if not time.low_us <= time.median_us <= time.high_us:
        raise InputError(
            "percentiles out of order", place=f"{place}.time",
            value=[time.low_us, time.median_us, time.high_us], remedy="low <= median <= high",
        )  # fmt: skip
    return built


def _check_paths(found: Measurements) -> None:
    """Refuse a link that no fabric of this document could have crossed."""
    allowed = {"virtual": "hbm", "ipc": "nvlink", "symm": "nvlink"}.get(found.fabric)
    for at, row in enumerate(found.rows):
        path = getattr(row, "path", None)
        if path is not None and path != allowed:
            raise InputError(
                f"the {found.fabric} fabric cannot measure this path", place=f"rows[{at}].path",
                value=path, remedy="virtual ranks measure hbm, ipc and symm nvlink, host neither",
            )  # fmt: skip


def _build(cls: type, data: object, place: str) -> Any:
    if not isinstance(data, dict):
        raise InputError(
            "not an object", place=place, value=data, remedy=f"give the keys of {cls.__name__}"
        )
    _keys(cls, data, place)
    hints = typing.get_type_hints(cls)
    values = {
        one.name: _value(hints[one.name], data[one.name], f"{place}.{one.name}", one.metadata)
        for one in dataclasses.fields(cls)
    }
    return cls(**values)


def _keys(cls: type, data: dict[Any, Any], place: str, extra: set[str] | None = None) -> None:
    known = {one.name for one in dataclasses.fields(cls)} | (extra or set())
    prefix = f"{place}." if place else ""
    for key in data:
        if key not in known:
            raise InputError(
                "unknown key", place=f"{prefix}{key}", value=data[key],
                remedy=f"known are {', '.join(sorted(known))}",
            )  # fmt: skip
    for key in sorted(known):
        if key not in data:
            raise InputError("missing", place=f"{prefix}{key}", remedy="measure again")


def _value(hint: Any, value: Any, place: str, metadata: Any) -> Any:
    """Check one value against its type, range and choices."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, place)
    if typing.get_origin(hint) is list:
        if not isinstance(value, list):
            raise InputError("not a list", place=place, value=value, remedy="give a list")
        (item,) = typing.get_args(hint)
        return [_value(item, one, f"{place}[{at}]", metadata) for at, one in enumerate(value)]
    if hint is str:
        text = _text(value, place)
        return _choice(text, metadata["choices"], place) if "choices" in metadata else text
    if hint is bool:
        if not isinstance(value, bool):
            raise InputError("not true or false", place=place, value=value, remedy="give a boolean")
        return value
    return _number(hint, value, place, metadata)


def _number(hint: type, value: Any, place: str, metadata: Any) -> Any:
    fits = isinstance(value, int) if hint is int else isinstance(value, int | float)
    if not fits or isinstance(value, bool) or not math.isfinite(value):
        what = "a whole number" if hint is int else "a finite number"
        raise InputError(f"not {what}", place=place, value=value, remedy=f"give {what}")
    least = metadata.get("least")
    if least is not None and value < least:
        raise InputError("out of range", place=place, value=value, remedy=f"give {least} or more")
    return hint(value)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise InputError("not text", place=place, value=value, remedy="give a string")
    return value


def _choice(value: Any, choices: tuple[str, ...], place: str) -> str:
    if value not in choices:
        raise InputError(
            "unknown value", place=place, value=value, remedy=f"give one of {', '.join(choices)}"
        )
    return str(value)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
