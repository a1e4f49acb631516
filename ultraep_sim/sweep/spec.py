"""What a sweep is: a scenario, what varies in it, and how the result is drawn."""

from __future__ import annotations

import difflib
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from ..errors import ScenarioError
from ..scenario.strict import Strict
from ..scenario.yaml_reader import Location, dotted, read_yaml
from .axes import ValueSpec, read_axis
from .condition import Condition
from .report_spec import ReportSpec
from .search_spec import ParetoSpec, SmallestSpec

MAX_POINTS = 100_000
#: Combinations that filters may have to look at.
MAX_GRID = 1_000_000
_MAX_BYTES = 1 << 20
#: What a run's rows say of a point; no axis may have such a name.
RESULT_COLUMNS = frozenset(
    (
        "point",
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
    """A grid of runs, or a search in one.

    Attributes
    ----------
    question : str
        What it is to answer.
    base : Path
        A scenario file, relative to the sweep's.
    set : dict
        Paths and values that every point has instead of the scenario's. A ``workload.trace`` is
        named relative to the sweep file, here and in the axes.
    vary : dict of str to list or dict
        Axes, in the forms of `ultraep_sim.sweep.axes`; the grid is their product, the last axis
        fastest.
    where : list of str
        Conditions on the axes' columns; a point is kept where all hold.
    seeds : int or list of int
        Every point is run with each of these seeds (an int: that many, from 0). Empty: the
        scenario's own.
    draws : int
        Every point is run with the nominal numbers of the model and with so many draws of all
        that have a range, the same draws at every point.
    smallest : SmallestSpec or None
        Instead of the whole grid: the smallest value of one more axis at which a condition holds.
    pareto : ParetoSpec or None
        Instead of the whole grid: a search for what trades one aim for another best.
    plot : PlotSpec or None
    report : ReportSpec or None
        What the page is about; None: the headline metric and the settings are guessed.
    """

    question: str = ""
    base: Annotated[Path, Field(strict=False)]
    set: dict[str, Any] = Field(default_factory=dict)
    vary: dict[str, Any] = Field(default_factory=dict)
    where: tuple[str, ...] = Field(default=(), strict=False)
    seeds: Annotated[int, Field(ge=1, le=10_000)] | list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list
    )
    draws: int = Field(default=0, ge=0, le=10_000)
    smallest: SmallestSpec | None = None
    pareto: ParetoSpec | None = None
    plot: PlotSpec | None = None
    report: ReportSpec | None = None

    _source_path: Path | None = PrivateAttr(default=None)

    @field_validator("vary")
    @classmethod
    def _axes(cls, value: dict[str, Any]) -> dict[str, Any]:
        sizes = [len(read_axis(name, written)) for name, written in value.items()]
        if math.prod(sizes) > MAX_GRID:
            raise ValueError(f"{math.prod(sizes)} points; keep a grid to {MAX_GRID}")
        return value

    @field_validator("where")
    @classmethod
    def _conditions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            Condition(text)
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, value: int | list[int]) -> int | list[int]:
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("a seed stands there twice")
        return value

    @model_validator(mode="after")
    def _something_varies(self) -> SweepSpec:
        if not self.vary and self.smallest is None and not self.seeds and not self.draws:
            raise ValueError("nothing varies; give vary: an axis, or seeds, draws or smallest")
        if self.smallest is not None and self.pareto is not None:
            raise ValueError("smallest and pareto are two searches; ask for one")
        return self

    @model_validator(mode="after")
    def _columns_once(self) -> SweepSpec:
        """Refuse columns that would be written over: by a run's result, or by another axis."""
        of: dict[str, str] = {}
        for name, values in self.axes.items():
            for column in {column for one in values for column in one.columns(name)}:
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
        repeats = {"seed": bool(self.seeds), "draw": bool(self.draws)}
        if self.smallest is not None:
            repeats[self.smallest.of] = True
        for column, used in repeats.items():
            if used and column in of:
                raise ValueError(f"vary.{of[column]} gives a column {column}, which varies already")
        return self

    @cached_property
    def axes(self) -> dict[str, list[ValueSpec]]:
        """The axes of ``vary``, each value with what it sets."""
        return {name: read_axis(name, written) for name, written in self.vary.items()}

    @property
    def columns(self) -> list[str]:
        """Columns that the axes give every row, without ``seed`` and ``draw``."""
        found = [
            column
            for name, values in self.axes.items()
            for one in values
            for column in one.columns(name)
        ]
        if self.smallest is not None:
            found.append(self.smallest.of)
        return list(dict.fromkeys(found))

    @property
    def searches(self) -> bool:
        """Whether which points it has depends on what others gave."""
        return self.smallest is not None or (
            self.pareto is not None and self.pareto.trials is not None
        )

    @property
    def repeats(self) -> list[str]:
        """Columns that tell the repetitions of one setting apart."""
        return [name for name in ("seed", "draw") if getattr(self, f"{name}s")]

    @property
    def source_path(self) -> Path | None:
        """The file it was read from."""
        return self._source_path

    @property
    def base_path(self) -> Path:
        """The scenario file."""
        folder = Path() if self._source_path is None else self._source_path.parent
        return folder / self.base


def load_sweep(path: str | Path) -> SweepSpec:
    """Read a sweep file.

    Raises
    ------
    ScenarioError
        Anything in it is wrong; the message names file, line, key, value and remedy.
    """
    path = Path(path)
    data, lines = read_yaml(_text(path), path)
    return _checked(data, path, lines)


def sweep_from_dict(data: Any, path: Path | None) -> SweepSpec:
    """Return a sweep from plain values; files in it are named relative to that of ``path``.

    Raises
    ------
    ScenarioError
        Anything in it is wrong.
    """
    return _checked(data, path, {})


def _checked(data: Any, path: Path | None, lines: dict[Location, int]) -> SweepSpec:
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


def _problem(
    error: ValidationError, path: Path | None, lines: dict[Location, int]
) -> ScenarioError:
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
