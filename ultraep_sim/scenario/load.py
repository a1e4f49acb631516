"""Turn a YAML file and ``--set`` overrides into a Scenario, or say in one line why not."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ultraep_sim.errors import InputError, ScenarioError
from ultraep_sim.scenario import presets
from ultraep_sim.scenario.overrides import Override, apply_overrides
from ultraep_sim.scenario.schema import Scenario
from ultraep_sim.scenario.yaml_reader import MAX_BYTES, Location, dotted, read_yaml

_SEE = "see scenarios/quickstart.yaml for its form"

#: Keys that name a file, relative to the scenario's.
FILES: tuple[tuple[str, ...], ...] = (
    ("workload", "trace"),
    ("workload", "requests", "arrivals", "file"),
)


def load_scenario(path: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """Read a scenario file.

    Parameters
    ----------
    path : str or Path
        YAML; traces in it are named relative to it.
    overrides : iterable of str
        ``path=value`` each, for example ``ep.slots_per_rank=4`` or ``policies.1.cadence_steps=50``;
        a trace in an override is named relative to the current directory.

    Returns
    -------
    Scenario

    Raises
    ------
    ScenarioError
        Anything in the file or an override is wrong; the message names file, line, key, value
        and remedy.
    """
    path = Path(path)
    data, lines = _parsed(_read_text(path), path)
    return _build(copy.deepcopy(data), lines, overrides, path)


def scenario_from_dict(data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Scenario:
    """Build a scenario from plain values; traces are named relative to the current directory."""
    return _build(copy.deepcopy(dict(data)), {}, overrides, None)


@lru_cache(maxsize=16)
def _parsed(text: str, path: Path) -> tuple[Any, dict[Location, int]]:
    """Parse a file once, however many variants of it a sweep has."""
    return read_yaml(text, path)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ScenarioError(
            "no such scenario file", file=path, remedy=_scenarios_nearby(path)
        ) from error
    except IsADirectoryError as error:
        raise ScenarioError(
            "this is a directory", file=path, remedy="name a .yaml file in it"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise ScenarioError(
            f"cannot be read: {error}", file=path, remedy="check the path and its permissions"
        ) from error
    if len(raw) > MAX_BYTES:
        raise ScenarioError(
            "too large for a scenario", file=path, remedy=f"keep it below {MAX_BYTES} bytes"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ScenarioError(
            "not UTF-8 text",
            file=path,
            place=f"line {line}",
            value=raw[error.start : error.start + 8],
            remedy="give a YAML file saved as UTF-8",
        ) from error


def _scenarios_nearby(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("scenarios")
    names = sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"did you mean {folder / close[0]}?"
    return "name an existing file, for example scenarios/quickstart.yaml"


def _build(
    data: Any, lines: dict[Location, int], overrides: Iterable[str], path: Path | None
) -> Scenario:
    if not isinstance(data, dict):
        raise ScenarioError(
            "a scenario is a mapping of keys to values",
            file=path,
            place="line 1",
            value=data,
            remedy="start from scenarios/quickstart.yaml",
        )
    _anchor_files(data, Path.cwd() if path is None else path.absolute().parent)
    parsed = apply_overrides(data, overrides)
    # An absolute path stays as it is, so that anchoring all of them anew moves only the overridden.
    if any(o.location == file[: len(o.location)] for o in parsed for file in FILES):
        _anchor_files(data, Path.cwd())
    where = _Where(path, lines, parsed)
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise _first_problem(error, data, where) from error
    scenario._source_path = path
    _check_trace_exists(scenario, where)
    _check_policies(scenario, where)
    return scenario


def _anchor_files(data: dict[str, Any], base: Path) -> None:
    """Make paths of the workload absolute, so that they mean the same from every directory."""
    for *parents, key in FILES:
        holder: Any = data
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = os.path.normpath(base / holder[key])


class _Where:
    """Names the place of a location: a line of the file, or the override that set it."""

    def __init__(
        self, path: Path | None, lines: dict[Location, int], overrides: list[Override]
    ) -> None:
        self.path = path
        self.lines = lines
        self.overrides = overrides

    def place(self, location: Location) -> str:
        for override in reversed(self.overrides):
            if location[: len(override.location)] == override.location:
                rest = dotted(location[len(override.location) :])
                return f"--set {override.text}" + (f", {rest}" if rest else "")
        at = location
        while at and at not in self.lines:
            at = at[:-1]
        line = f"line {self.lines[at]}" if at in self.lines and at else ""
        return ", ".join(part for part in (line, dotted(location)) if part)

    def error(self, problem: str, location: Location, *, value: Any, remedy: str) -> ScenarioError:
        place = self.place(location)
        file = None if place.startswith("--set") else self.path
        return ScenarioError(problem, file=file, place=place, value=value, remedy=remedy)


def _first_problem(error: ValidationError, data: dict[str, Any], where: _Where) -> ScenarioError:
    """Tell the first problem; unknown keys come first, for a typo also leaves its key missing."""
    found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = found[0]
    location: Location = first["loc"]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    kind = first["type"]
    if kind == "extra_forbidden":
        return where.error(
            f"unknown key {location[-1]!r}{more}",
            location,
            value=first["input"],
            remedy=presets.did_you_mean(str(location[-1]), _keys_at(location[:-1])),
        )
    if kind == "missing":
        return where.error(
            f"the key {location[-1]!r} is missing{more}",
            location,
            value=sorted(first["input"]) if isinstance(first["input"], dict) else first["input"],
            remedy=f"add {location[-1]}: to {dotted(location[:-1]) or 'the scenario'}",
        )
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        inner = location
        if cause.place:
            # A profile's place reads "paper-rack64: gpu.hbm_GB"; the key is what follows the name.
            key = cause.place.rpartition(": ")[2]
            inner = (*location, *(part for part in key.split(".") if part.isidentifier()))
        return where.error(
            cause.problem + more,
            inner,
            value=cause.value if cause.value is not None else first["input"],
            remedy=cause.remedy or _SEE,
        )
    message = str(cause) if cause is not None else first["msg"]
    return where.error(
        message[:1].lower() + message[1:] + more,
        location,
        value=first["input"],
        remedy=_remedy(first, location),
    )


def _remedy(problem: Any, location: Location) -> str:
    kind = problem["type"]
    key = location[-1] if location else "it"
    if kind == "literal_error":
        choices = [
            c.strip("' ") for c in problem["ctx"]["expected"].replace(" or ", ", ").split(",")
        ]
        return presets.did_you_mean(str(problem["input"]), choices)
    if kind in ("int_type", "int_from_float", "float_type", "string_type", "bool_type"):
        wanted = {"int": "a whole number", "flo": "a number", "str": "text", "boo": "true or false"}
        hint = " without quotes" if isinstance(problem["input"], str) else ""
        return f"write {key} as {wanted[kind[:3]]}{hint}"
    if kind.endswith("_type"):
        return _SEE
    if kind.startswith(("greater", "less", "too_", "finite")):
        return f"change {key} to a value in that range"
    return f"mend {key}"


def _keys_at(location: Location) -> list[str]:
    """Return the keys the schema knows at a location."""
    model: Any = Scenario
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = _nested_model(field.annotation)
        if model is None:
            return []
    return list(model.model_fields)


def _nested_model(annotation: Any) -> Any:
    """Return the first pydantic model inside an annotation such as ``list[X]`` or ``X | None``."""
    if hasattr(annotation, "model_fields"):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _nested_model(inner)
        if found is not None:
            return found
    return None


def _check_trace_exists(scenario: Scenario, where: _Where) -> None:
    trace, requests = scenario.workload.trace, scenario.workload.requests
    if trace is not None:
        remedy = "give an existing trace, or a synthetic workload instead; "
        remedy += "the shipped ones lie in traces/"
        _check_file(trace, "trace", FILES[0], remedy, where)
    arrivals = None if requests is None else requests.arrivals.file
    if arrivals is not None:
        remedy = "give an existing file of recorded arrivals, or rate_per_s alone"
        _check_file(arrivals, "arrivals file", FILES[1], remedy, where)


def _check_file(path: Path, what: str, at: Location, remedy: str, where: _Where) -> None:
    try:
        problem = "" if path.is_file() else f"there is no {what} {path}"
        if problem and path.exists():
            problem = f"the {what} {path} is not a file"
    except OSError as error:  # a name too long, a folder that may not be entered
        problem = f"the {what} {path} cannot be opened: {error.strerror}"
    if problem:
        raise where.error(problem, at, value=path.name, remedy=remedy)


def _check_policies(scenario: Scenario, where: _Where) -> None:
    """Build every policy once, so that a wrong option fails now and not after minutes."""
    index = -1
    try:
        for index, _ in presets.policies_of(scenario):  # noqa: B007  (the index is used below)
            pass
    except InputError as error:
        # The policy that failed is the one after the last that was built.
        index += 1
        spec = scenario.policies[index]
        at: Location = ("policies", index)
        if error.place in spec.options:
            at = (*at, str(error.place))
        elif error.place == "policy":
            at = (*at, "name")
        raise where.error(
            error.problem,
            at,
            value=spec.written() if error.value is None else error.value,
            remedy=error.remedy or "list them with ultraep-sim policies",
        ) from error
