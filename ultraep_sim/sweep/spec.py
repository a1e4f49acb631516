"""What a sweep is: a scenario, what varies in it, and how the result is drawn."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from ..errors import ScenarioError
from ..scenario.strict import Strict
from ..scenario.yaml_reader import Location, dotted, read_yaml

MAX_POINTS = 10_000
_MAX_BYTES = 1 << 20
Scalar = str | bool | int | float
#: What a run's rows say of a point; no axis may have such a name.
RESULT_COLUMNS = frozenset(
    (
        "policy",
        "mean_rank_imbalance",
        "p99_rank_imbalance",
        "layer_time_ms",
        "fraction_of_ideal",
        "speedup_over_none",
        "exposed_overhead_us_per_layer",
        "replicas_per_plan",
        "activation_peak_ratio",
        "iteration_ms",
        "tflops_per_gpu",
        "communication_exposed",
        "pipeline_idle",
        "sync_exposed",
        "goodput",
        "restarts",
        "campaign_h",
        "fits",
        "memory_GB",
        "workload",
        "notes",
    )
)
_FORM = "see scenarios/what-if/slots.yaml for the form"


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


class PlotSpec(Strict):
    """A plot of the rows: one line for each combination of ``lines``.

    Attributes
    ----------
    x, y : str
        Columns: an axis of the sweep, or any column of the result rows.
    lines : tuple of str
        Columns whose values tell the lines apart; ``policy`` by default.
    panels : str or None
        A column with a panel for each of its values.
    title, x_label, y_label : str
        Column names where they are empty.
    log_x : bool
    only : dict of str to list
        Rows that are drawn: those whose column has one of these values.
    reference : float or None
        A thin line across at this height.
    """

    x: str
    y: str
    lines: tuple[str, ...] = Field(default=("policy",), strict=False)
    panels: str | None = None
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    only: dict[str, list[Any]] = Field(default_factory=dict)
    reference: float | None = None


class SweepSpec(Strict):
    """A grid of runs.

    Attributes
    ----------
    question : str
        What it is to answer.
    base : Path
        A scenario file, relative to the sweep's.
    set : dict
        Paths and values that every point has instead of the scenario's. A ``workload.trace`` is
        named relative to the sweep file, here and in the axes.
    vary : dict of str to list
        Axes. A name is a path of the scenario with its values, or any name with values that are
        `ValueSpec`; the grid is the product, the last axis fastest.
    plot : PlotSpec or None
    """

    question: str = ""
    base: Annotated[Path, Field(strict=False)]
    set: dict[str, Any] = Field(default_factory=dict)
    vary: dict[str, list[Any]] = Field(min_length=1)
    plot: PlotSpec | None = None

    _source_path: Path | None = PrivateAttr(default=None)

    @field_validator("vary")
    @classmethod
    def _axes(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        points = 1
        for name, values in value.items():
            if not values:
                raise ValueError(f"{name} has no value; give at least one")
            mappings = sum(isinstance(one, dict) for one in values)
            if mappings not in (0, len(values)):
                raise ValueError(f"{name} mixes plain values with value: and set: pairs")
            points *= len(values)
        if points > MAX_POINTS:
            raise ValueError(f"{points} points; keep a sweep to {MAX_POINTS}")
        return value

    @model_validator(mode="after")
    def _values_once(self) -> SweepSpec:
        for name in self.vary:
            told = [repr(one.value) for one in self.axis(name)]
            if len(set(told)) < len(told):
                raise ValueError(f"vary.{name} has a value twice")
        return self

    @model_validator(mode="after")
    def _columns_once(self) -> SweepSpec:
        """Refuse columns that would be written over: by a run's result, or by another axis."""
        of: dict[str, str] = {}
        for name in self.vary:
            for column in {column for one in self.axis(name) for column in one.columns(name)}:
                if column in RESULT_COLUMNS:
                    raise ValueError(
                        f"vary.{name} gives a column {column}, which is one of the results; "
                        "call it otherwise"
                    )
                if column in of:
                    raise ValueError(
                        f"vary.{of[column]} and vary.{name} both give a column {column}; "
                        "call one of them otherwise"
                    )
                of[column] = name
        return self

    @property
    def columns(self) -> list[str]:
        """Columns that the axes give every row."""
        axes = [one.columns(name) for name in self.vary for one in self.axis(name)]
        return list(dict.fromkeys(column for columns in axes for column in columns))

    @property
    def source_path(self) -> Path | None:
        """The file it was read from."""
        return self._source_path

    @property
    def base_path(self) -> Path:
        """The scenario file."""
        folder = Path() if self._source_path is None else self._source_path.parent
        return folder / self.base

    def axis(self, name: str) -> list[ValueSpec]:
        """Return the values of one axis, each with what it sets."""
        found = []
        for one in self.vary[name]:
            if isinstance(one, dict):
                found.append(ValueSpec.model_validate(one))
            else:
                shown = one if isinstance(one, str | int | float) else repr(one)
                found.append(ValueSpec(value=shown, set={name: one}))
        return found


def load_sweep(path: str | Path) -> SweepSpec:
    """Read a sweep file.

    Raises
    ------
    ScenarioError
        Anything in it is wrong; the message names file, line, key, value and remedy.
    """
    path = Path(path)
    data, lines = read_yaml(_text(path), path)
    if not isinstance(data, dict):
        raise ScenarioError("a sweep is a mapping of keys", file=path, value=data, remedy=_FORM)
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as error:
        raise _problem(error, path, lines) from error
    spec._source_path = path
    return spec


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()[: _MAX_BYTES + 1]
        if len(raw) > _MAX_BYTES:
            raise ScenarioError("too large for a sweep", file=path, remedy="keep it below 1 MiB")
        return raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        near = path.parent if path.parent.is_dir() else Path("scenarios/what-if")
        names = sorted(p.name for p in near.glob("*.yaml")) if near.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1)
        remedy = f"did you mean {near / close[0]}?" if close else "name a sweep file"
        raise ScenarioError("no such sweep file", file=path, remedy=remedy) from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL byte in the name
        raise ScenarioError(
            f"cannot be read: {error}", file=path, remedy="give a YAML file saved as UTF-8"
        ) from error


def _problem(error: ValidationError, path: Path, lines: dict[Location, int]) -> ScenarioError:
    """Tell the first problem in one line."""
    first = error.errors()[0]
    place: Location = tuple(first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        text = "unknown key"
    known = place
    while known and known not in lines:
        known = known[:-1]
    line = f" (line {lines[known]})" if known in lines else ""
    return ScenarioError(
        text,
        file=path,
        place=f"{dotted(place) or 'sweep'}{line}",
        value=first.get("input"),
        remedy=_FORM,
    )
