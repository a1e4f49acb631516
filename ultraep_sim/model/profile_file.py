"""Hardware profiles as YAML files: what ``ultraep-sim calibrate`` writes and scenarios name.

A file has a ``format``, the ``rack`` with every number, its unit, provenance, source, range and
shared factors, and beside it what tells how the numbers were found (``fits``, ``inputs``), which
the simulator ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.profiles import GpuProfile, RackProfile
from ultraep_sim.model.provenance import Quantity

FORMAT = "ultraep-sim-hardware-1"
_MAX_BYTES = 4 * 2**20
_OPTIONAL = ("fp4_TFLOPs", "fp4_speedup")
_MORE = {"range", "shared"}


def write_profile(path: str | Path, rack: RackProfile, notes: Mapping[str, Any]) -> None:
    """Write a rack, and notes on how its numbers were found, as YAML."""
    body = {"format": FORMAT, "rack": rack.to_dict(), **notes}
    text = yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=100)
    Path(path).write_text(text, encoding="utf-8")


def read_profile(path: str | Path) -> RackProfile:
    """Read a rack from a file.

    Raises
    ------
    ProfileError
        The file is missing, too large, no such YAML, or a number in it is wrong.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ProfileError("too large for a profile", file=file, remedy="check the file")
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(
            error.strerror or str(error), file=file, remedy="check the path of the rack's file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"no YAML: {error}", file=file, remedy="calibrate anew") from None
    if not isinstance(body, Mapping) or body.get("format") != FORMAT:
        raise ProfileError(
            "not a hardware profile", file=file, place="format", remedy=f"expected {FORMAT}"
        )
    try:
        return rack_from_dict(body.get("rack"))
    except ProfileError as error:
        raise error.at(file=file) from None


def rack_from_dict(value: Any) -> RackProfile:
    """Return the rack that `RackProfile.to_dict` wrote.

    Raises
    ------
    ProfileError
        A number is missing, unknown or wrong.
    """
    found = _fields(value, RackProfile, "rack")
    gpu = GpuProfile(**_quantities(_fields(found.pop("gpu"), GpuProfile, "gpu"), "gpu"))
    return RackProfile(gpu=gpu, **_quantities(found, "rack"))


def _fields(value: Any, kind: type, place: str) -> dict[str, Any]:
    known = [f.name for f in fields(kind)]
    if not isinstance(value, Mapping):
        raise ProfileError("expected a mapping", place=place, value=value, remedy="calibrate anew")
    for name in known:
        if name not in value:
            raise ProfileError("a number is missing", place=f"{place}.{name}", remedy="give it")
    for name in value:
        if name not in known:
            raise ProfileError(
                "no such number in a profile",
                place=place,
                value=name,
                remedy=f"one of {', '.join(known)}",
            )
    return dict(value)


def _quantities(found: Mapping[str, Any], place: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in found.items():
        if name == "name":
            out[name] = str(value)
        elif value is None and name in _OPTIONAL:
            out[name] = None
        else:
            out[name] = _quantity(value, f"{place}.{name}")
    return out


def _quantity(value: Any, place: str) -> Quantity:
    wanted = {"value", "unit", "provenance", "source"}
    if not isinstance(value, Mapping) or not wanted <= set(value) <= wanted | _MORE:
        raise ProfileError(
            "a number tells value, unit, provenance, source, perhaps a range and shared factors",
            place=place,
            value=value,
            remedy="write {value: 1, unit: us, provenance: fitted, source: WHERE}",
        )
    ends = value.get("range", (None, None))
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise ProfileError("a range is [low, high]", place=place, value=ends, remedy="mend it")
    shared = value.get("shared", {})
    if not isinstance(shared, Mapping):
        raise ProfileError(
            "shared factors are numbers by name", place=place, value=shared, remedy="mend them"
        )
    told = {k: value[k] for k in wanted}
    try:
        return Quantity(**told, low=ends[0], high=ends[1], shared=tuple(shared.items()))
    except ProfileError as error:
        raise error.at(place=place) from None
    except (TypeError, AttributeError):
        raise ProfileError(
            "a number of the wrong kind", place=place, value=value, remedy="mend it"
        ) from None
