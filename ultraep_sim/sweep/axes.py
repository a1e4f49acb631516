"""Axes of a sweep: lists, ranges, log ranges, paired keys, and named values that set several keys.

An axis is written in one of five forms::

    ep.slots_per_rank: [0, 1, 2, 4]
    ep.slots_per_rank: {range: [0, 8, 2]}                      # 0, 2, 4, 6, 8: the end counts
    rack.scale_up_GBps: {log_range: [100, 1600, 5]}            # 100, 200, 400, 800, 1600
    size: {paired: {ep.ranks: [32, 64], model: [a, b]}}        # two points, not four
    link: [{value: half, set: {rack.scale_up_GBps: 450}}]      # a name for what it sets
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, ValidationError

from ..scenario.strict import Strict

MAX_VALUES = 100_000
Scalar = str | bool | int | float
_FORMS = "a list, or one of range:, log_range: and paired:"


class ValueSpec(Strict):
    """One value of an axis that changes several keys at once.

    Attributes
    ----------
    value : str, number, bool, or dict of them
        How tables and plots call it: the value of the column that is named as the axis, or columns
        of its own.
    set : dict
        Paths of the scenario and their values.
    """

    value: Scalar | dict[str, Scalar]
    set: dict[str, Any] = Field(min_length=1)

    def columns(self, axis: str) -> dict[str, Scalar]:
        """Return what the rows of this value are told by."""
        return self.value if isinstance(self.value, dict) else {axis: self.value}


def read_axis(name: str, written: Any) -> list[ValueSpec]:
    """Return the values of an axis, each with what it sets.

    Parameters
    ----------
    name : str
        A path of the scenario, or any name where the values say what they set.
    written : list or dict
        As in the file.

    Raises
    ------
    ValueError
        It has none of the forms, no value, one twice, or more than 100,000.
    """
    if isinstance(written, dict):
        values = _spread(name, written)
    elif isinstance(written, list):
        values = _listed(name, written)
    else:
        raise ValueError(f"{name} must be {_FORMS}")
    if not values:
        raise ValueError(f"{name} has no value; give at least one")
    told = [repr(one.value) for one in values]
    if len(set(told)) < len(told):
        raise ValueError(f"{name} has a value twice")
    return values


def _listed(name: str, written: list[Any]) -> list[ValueSpec]:
    mappings = sum(isinstance(one, dict) for one in written)
    if mappings not in (0, len(written)):
        raise ValueError(f"{name} mixes plain values with value: and set: pairs")
    if not mappings:
        return [_plain(name, one) for one in written]
    try:
        return [ValueSpec.model_validate(one) for one in written]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{name}: {where or 'a value'}: {first['msg']}") from error


def _plain(path: str, value: Any) -> ValueSpec:
    shown = value if isinstance(value, str | int | float) else repr(value)
    return ValueSpec(value=shown, set={path: value})


def _spread(name: str, written: dict[str, Any]) -> list[ValueSpec]:
    if len(written) != 1:
        raise ValueError(f"{name} must be {_FORMS}")
    ((form, given),) = written.items()
    if form == "range":
        return [_plain(name, value) for value in _range(name, given)]
    if form == "log_range":
        return [_plain(name, value) for value in _log_range(name, given)]
    if form == "paired":
        return _paired(name, given)
    raise ValueError(f"{name} has no form {form!r}; it must be {_FORMS}")


def _range(name: str, given: Any) -> list[int | float]:
    """Return ``start, start + step, ...`` up to ``stop``, which counts where a step hits it."""
    if not _numbers(given, 2) and not _numbers(given, 3):
        raise ValueError(f"{name}: a range is [first, last] or [first, last, step], in numbers")
    first, last, step = (*given, 1)[:3]
    if step <= 0 or last < first:
        raise ValueError(f"{name}: a range goes up: first <= last, and a step above 0")
    count = math.floor((last - first) / step + 1e-9) + 1
    if count > MAX_VALUES:
        raise ValueError(f"{name} has {count} values; at most {MAX_VALUES}")
    whole = all(isinstance(part, int) for part in (first, step))
    return [first + at * step if whole else _short(first + at * step) for at in range(count)]


def _log_range(name: str, given: Any) -> list[int | float]:
    """Return ``count`` values from first to last with one ratio; whole where both ends are."""
    if not _numbers(given, 3) or not isinstance(given[2], int):
        raise ValueError(f"{name}: a log_range is [first, last, count], in numbers")
    first, last, count = given
    if not 0 < first < last or not 2 <= count <= MAX_VALUES:
        raise ValueError(f"{name}: a log_range needs 0 < first < last and a count of 2 or more")
    values = [first * (last / first) ** (at / (count - 1)) for at in range(count)]
    if isinstance(first, int) and isinstance(last, int):
        return [round(value) for value in values]
    return [_short(value) for value in values]


def _paired(name: str, given: Any) -> list[ValueSpec]:
    lists = isinstance(given, dict) and all(isinstance(part, list) for part in given.values())
    if not lists or not given or len({len(part) for part in given.values()}) != 1:
        raise ValueError(f"{name}: paired takes paths with lists of one length")
    rows = zip(*given.values(), strict=True)
    return [
        ValueSpec(
            value={path: _plain(path, one).value for path, one in zip(given, row, strict=True)},  # type: ignore[misc]  # of a plain value it is plain
            set=dict(zip(given, row, strict=True)),
        )
        for row in rows
    ]


def _numbers(given: Any, count: int) -> bool:
    return (
        isinstance(given, list)
        and len(given) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
        and all(math.isfinite(v) for v in given)
    )


def _short(value: float) -> float:
    """Drop the digits that only rounding put there, so that tables read 0.3 and keys agree."""
    return float(f"{value:.10g}")
