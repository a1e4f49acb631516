"""Apply ``--set path=value`` to the plain values of a scenario."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ultraep_sim.errors import ScenarioError
from ultraep_sim.scenario.yaml_reader import Location, dotted, read_value

_EXAMPLE = "write it like --set ep.slots_per_rank=4 or --set policies.1.cadence_steps=50"


class Override(NamedTuple):
    """One override: where, what, and the text a person typed."""

    location: Location
    value: Any
    text: str


def parse_override(text: str) -> Override:
    """Read ``path=value``; the value follows the rules of the file.

    Raises
    ------
    ScenarioError
        There is no ``=``, a part of the path is empty, or the value is not YAML.
    """
    path, equals, raw = text.partition("=")
    place = f"--set {text}"
    parts = re.sub(r"\[(\d+)\]", r".\1", path.strip()).split(".")
    if not equals or not all(parts):
        raise ScenarioError("not path=value", place=place, value=text, remedy=_EXAMPLE)
    try:
        value = read_value(raw)
    except ScenarioError as error:
        raise ScenarioError(error.problem, place=place, value=raw, remedy=_EXAMPLE) from error
    location = tuple(int(part) if part.isascii() and part.isdigit() else part for part in parts)
    return Override(location, value, text)


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> list[Override]:
    """Change ``data`` in place, in order, and return what was applied.

    A policy or preset written as a plain name becomes a mapping when a key inside it is set; an
    index one past the end of a list appends.
    """
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        _apply(data, override)
    return parsed


def _apply(data: dict[str, Any], override: Override) -> None:
    current: Any = data
    for depth, part in enumerate(override.location[:-1]):
        current = _open(current, part, override, depth)
    last = override.location[-1]
    depth = len(override.location) - 1
    if isinstance(current, list):
        index = _index(current, last, override, depth, append=True)
        current[index : index + 1] = [override.value]
    else:
        current[str(last)] = override.value


def _open(current: Any, part: str | int, override: Override, depth: int) -> Any:
    """Step into ``part``, making a mapping where there is none or where a name stands."""
    if isinstance(current, list):
        key: Any = _index(current, part, override, depth, append=False)
        value = current[key]
    else:
        key = str(part)
        value = current.get(key)
    if isinstance(value, dict | list):
        return value
    at = override.location[: depth + 1]
    if value is None:
        value = {}
    elif isinstance(value, str) and at[0] in ("policies", "model", "rack"):
        value = {"name" if at[0] == "policies" else "preset": value}
    else:
        raise ScenarioError(
            f"{dotted(at)} holds a plain value, not keys",
            place=f"--set {override.text}",
            value=value,
            remedy=f"set {dotted(at)} itself",
        )
    current[key] = value
    return value


def _index(
    items: list[Any], part: str | int, override: Override, depth: int, *, append: bool
) -> int:
    at = dotted(override.location[:depth])
    stop = len(items) + append
    if isinstance(part, int) and part < stop:
        return part
    last = len(items) - 1
    inside = f"use an index from 0 to {last}" if items else "it has no entry"
    end = f"{inside}, or {len(items)} to append" if items else "use 0 to append"
    raise ScenarioError(
        f"{at} is a list of {len(items)}",
        place=f"--set {override.text}",
        value=part,
        remedy=end if append else inside,
    )
