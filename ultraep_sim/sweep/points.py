"""Points of a sweep: which there are, the scenario of each, its key, and its rows.

A point is a scenario file and what is set in it, so it can run anywhere; its rows are a pure
function of the scenario that it resolves to, of the code and of the trace's bytes, and its key is
the digest of those three.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.digests import code_digest, file_digest
from ..errors import InputError, ScenarioError
from .axes import ValueSpec
from .condition import Condition
from .spec import MAX_POINTS, SweepSpec

if TYPE_CHECKING:
    from ..scenario import Scenario

Row = dict[str, Any]
BETWEEN_NOTES = " | "
#: Raised where the meaning of stored rows changes, so that older ones are not taken for these.
ROWS_VERSION = 1


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes
    ----------
    base : Path
        Scenario file.
    values : tuple of (str, value)
        Column and how its value is called.
    overrides : tuple of str
        ``path=value`` each, as of ``--set``.
    """

    base: Path
    values: tuple[tuple[str, Any], ...]
    overrides: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it lies, for messages."""
        return ", ".join(f"{name}={value}" for name, value in self.values)

    def scenario(self) -> Scenario:
        """Read the scenario.

        Raises
        ------
        InputError
            It is wrong; the message says at which point.
        """
        from ..scenario import load_scenario

        with _named(self):
            return load_scenario(self.base, self.overrides)


def expand(spec: SweepSpec) -> list[Point]:
    """Return the points of a sweep that its filters keep, the last axis fastest, then seed, draw.

    Raises
    ------
    ScenarioError
        The filters name a column that is not there, keep nothing, or keep too much.
    """
    settings = settings_of(spec)
    count = len(settings) * len(repetitions(spec))
    if count > MAX_POINTS:
        raise ScenarioError(
            f"{count} points", file=spec.source_path, place="vary", value=count,
            remedy=f"keep a sweep to {MAX_POINTS}",
        )  # fmt: skip
    return [point for chosen in settings for point in points_at(spec, chosen)]


Setting = tuple[tuple[str, ValueSpec], ...]


def settings_of(spec: SweepSpec) -> list[Setting]:
    """Return the combinations of the axes that the filters keep."""
    axes = [[(name, one) for one in values] for name, values in spec.axes.items()]
    wanted = [Condition(text) for text in spec.where]
    kept = []
    for chosen in itertools.product(*axes):
        values = _told(chosen)
        try:
            if all(condition.holds(values) for condition in wanted):
                kept.append(chosen)
        except ValueError as error:
            raise ScenarioError(
                str(error), file=spec.source_path, place="where", remedy="name columns of vary"
            ) from error
    if not kept:
        raise ScenarioError(
            "no point is left", file=spec.source_path, place="where", value=list(spec.where),
            remedy="loosen the conditions",
        )  # fmt: skip
    return kept


def repetitions(spec: SweepSpec) -> list[dict[str, int]]:
    """Return what seed and draw the runs of every setting have."""
    seeds = list(range(spec.seeds)) if isinstance(spec.seeds, int) else spec.seeds
    by_seed: list[dict[str, int]] = [{"seed": seed} for seed in seeds] or [{}]
    if not spec.draws:
        return by_seed
    return [told | {"draw": draw} for told in by_seed for draw in range(spec.draws + 1)]


def points_at(
    spec: SweepSpec, chosen: Setting, more: Mapping[str, Any] | None = None
) -> list[Point]:
    """Return the points of one setting, one a repetition.

    Parameters
    ----------
    spec : SweepSpec
    chosen : tuple of (str, ValueSpec)
        A value of each axis.
    more : mapping, optional
        Further paths and values that the setting has, which are columns as well.
    """
    more = more or {}
    changes = [*spec.set.items(), *(item for _, one in chosen for item in one.set.items())]
    folder = spec.base_path.parent if spec.source_path is None else spec.source_path.parent
    return [
        Point(
            spec.base_path,
            tuple((_told(chosen) | dict(more) | told).items()),
            tuple(
                _override(path, value, folder)
                for path, value in [*changes, *more.items(), *told.items()]
            ),
        )
        for told in repetitions(spec)
    ]


def _told(chosen: Setting) -> dict[str, Any]:
    return {k: v for name, one in chosen for k, v in one.columns(name).items()}


def _override(path: str, value: Any, folder: Path) -> str:
    if path == "workload.trace" and isinstance(value, str):
        value = str((folder / value).absolute())  # an override names it from where it is run
    return f"{path}={json.dumps(value)}"


@dataclass(frozen=True)
class Resolved:
    """What a point comes down to.

    Attributes
    ----------
    key : str
        The digest of all that decides its rows, 16 hex digits.
    trace : Path or None
        The trace it replays.
    """

    key: str
    trace: Path | None


def resolve(point: Point) -> Resolved:
    """Read a point's scenario and say what decides its rows.

    Raises
    ------
    InputError
        Its scenario is wrong.
    """
    scenario = point.scenario()
    told = scenario.to_dict(directory="/")
    told.pop("description")
    # Presets stand there by name: their numbers are part of the code.
    files = [scenario.workload.trace]
    if scenario.workload.requests is not None:
        files.append(scenario.workload.requests.arrivals.file)
    bytes_of = [file_digest(file) for file in files if file is not None]
    _forget_paths(told["workload"])
    decides = json.dumps(
        [ROWS_VERSION, code_digest(), told, bytes_of, point.values], sort_keys=True, default=str
    )
    key = hashlib.sha256(decides.encode()).hexdigest()[:16]
    return Resolved(key, scenario.workload.trace)


def _forget_paths(workload: dict[str, Any]) -> None:
    """Take out where files lie: they count by their bytes."""
    if "trace" in workload:
        workload["trace"] = True
    if isinstance(workload.get("requests"), dict):
        workload["requests"].get("arrivals", {}).pop("file", None)


def run_point(point: Point, scenario: Scenario | None = None) -> list[Row]:
    """Run one point.

    Parameters
    ----------
    point : Point
    scenario : Scenario, optional
        The point's, where it has been read.

    Returns
    -------
    list of dict
        One a policy: the point's columns, then the columns of a run's result rows, ``fits`` and
        ``memory_GB``, ``workload`` and ``notes``.

    Raises
    ------
    InputError
        The scenario is wrong or cannot run at this point; the message says which point.
    """
    scenario = point.scenario() if scenario is None else scenario
    with _named(point):
        rows, told = _served(scenario) if scenario.serving is not None else _replayed(scenario)
    taken = {name for name, _ in point.values} & {*columns_of(rows), *told}
    if taken:
        raise ScenarioError(
            "an axis is called as one of the results", place=point.place, value=min(taken),
            remedy="call it otherwise",
        )  # fmt: skip
    return [dict(point.values) | row | told for row in rows]


def _replayed(scenario: Scenario) -> tuple[list[Row], Row]:
    from ..engine.run import run_scenario

    result = run_scenario(scenario)
    memory = {part["policy"]: part for part in result.memory}
    too_large = tuple(f"{label} does not fit: " for label in memory)  # told by `fits`
    notes = [text for text in result.notes if not text.startswith(too_large)]
    rows = []
    for row in result.rows:
        used = memory[row["policy"]]
        rows.append(row | {"fits": bool(used["fits"]), "memory_GB": float(used["total"]) / 1e9})
    return rows, {"workload": result.workload_label, "notes": BETWEEN_NOTES.join(notes)}


def _served(scenario: Scenario) -> tuple[list[Row], Row]:
    from ..serving.run import serve_scenario

    result = serve_scenario(scenario)
    rows = [{k: v for k, v in row.items() if _is_cell(v)} for row in result.rows]
    return rows, {"workload": result.workload_label, "notes": BETWEEN_NOTES.join(result.notes)}


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


@contextmanager
def _named(point: Point) -> Iterator[None]:
    """Let an error say at which point it was."""
    try:
        yield
    except InputError as error:
        raise ScenarioError(
            f"a point of the sweep cannot run: {error}", place=point.place, remedy="leave it out"
        ) from error


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all columns, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))
