"""Set two sweeps, or one sweep by two versions of the code, side by side.

Rows are matched by what they are: axis values, policy, seed and draw; not by the digest of their
point, which a new version of the code changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..sweep.report_spec import ReportSpec
from ..sweep.result import to_csv
from .sweep_figures import short
from .sweep_findings import Winner, winners
from .sweep_table import SAMPLE, Place, Row, Sample, SweepTable, in_order, number, told
from .sweep_text import percent, spread

if TYPE_CHECKING:
    from rich.table import Table

Key = tuple[Place, str, Sample]
Flat = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two sweeps side by side.

    Attributes
    ----------
    names : tuple of str
        What the first and the second are called.
    axes : tuple of str
        Axis columns of both.
    metrics : dict of str to "lower" or "higher"
        The headline first.
    policies : list of str
        Of either, in order of appearance.
    changes : list of dict
        One a matched row and metric that differ: the row's axes, policy, seed and draw,
        ``metric``, ``first``, ``second``, ``change_percent`` of the first (None where that is 0
        or a value is not there) and ``better``, whether the second is; the largest first.
    equal, matched : int
        Values that do not differ at all, and all values of matched rows.
    only_first, only_second : list of dict
        Rows that the other does not have: axes, policy, seed and draw.
    winners : list of dict
        Places where the winner by the headline changed, with both margins.
    rows : int
        Matched rows.
    places : int
        Places both have.
    """

    names: tuple[str, str]
    axes: tuple[str, ...]
    metrics: dict[str, str]
    policies: list[str]
    changes: list[Flat]
    equal: int
    matched: int
    only_first: list[Flat]
    only_second: list[Flat]
    winners: list[Flat]
    rows: int
    places: int

    @property
    def metric(self) -> str:
        """The headline metric."""
        return next(iter(self.metrics))

    @property
    def same(self) -> bool:
        """Whether both have the same rows with the same values."""
        return not (self.changes or self.only_first or self.only_second)

    def of(self, metric: str) -> list[Flat]:
        """Return the changes of one metric."""
        return [row for row in self.changes if row["metric"] == metric]

    def texts(self) -> list[str]:
        """Return the findings as sentences."""
        return _texts(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "names": list(self.names),
            "axes": list(self.axes),
            "metrics": self.metrics,
            "rows": self.rows,
            "values_equal": self.equal,
            "values_matched": self.matched,
            "same": self.same,
            "findings": self.texts(),
            "changed_winners": self.winners,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "changes": self.changes,
        }

    def to_csv(self) -> str:
        """Return the changes as CSV."""
        return to_csv(self.changes)

    def table(self, limit: int = 20) -> Table:
        """Return the largest changes of the headline metric as a table for a terminal."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = self.of(self.metric)[:limit]
        samples = [name for name in SAMPLE if any(row[name] is not None for row in shown)]
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=self.metric, title_justify="left")
        for name in (*self.axes, *samples, "policy"):
            made.add_column(Text(name), no_wrap=True)
        for name in (*self.names, "change"):
            made.add_column(Text(name), justify="right", no_wrap=True)
        for row in shown:
            at = [_text(row[name]) for name in (*self.axes, *samples, "policy")]
            change = row["change_percent"]
            cells = [*at, _text(row["first"]), _text(row["second"]), _signed(change)]
            made.add_row(*map(Text, cells))
        return made


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _signed(change: float | None) -> str:
    return "-" if change is None else ("+" if change > 0 else "") + percent(change)


def compare(
    rows_a: Sequence[Row],
    rows_b: Sequence[Row],
    axes_a: Sequence[str],
    axes_b: Sequence[str] | None = None,
    *,
    names: tuple[str, str] = ("first", "second"),
    spec: ReportSpec | None = None,
) -> Comparison:
    """Match the rows of two sweeps and say what differs.

    Parameters
    ----------
    rows_a, rows_b : sequence of mapping
        As `ultraep_sim.sweep.SweepResult.rows`.
    axes_a, axes_b : sequence of str
        Axis columns; of both sweeps the same where ``axes_b`` is left out. An axis that one of
        them does not have is ignored where it has one value only.
    names : tuple of str
        What they are called.
    spec : ReportSpec, optional
        Says which metric is the headline.

    Raises
    ------
    InputError
        A sweep has no rows, or one varies an axis that the other does not have.
    """
    second_axes = axes_a if axes_b is None else axes_b
    for rows, name in ((rows_a, names[0]), (rows_b, names[1])):
        if not rows:
            raise InputError("there are no rows to compare", place=name, remedy="run it first")
    axes = _shared(rows_a, axes_a, second_axes, names[0])
    _shared(rows_b, second_axes, axes_a, names[1])
    neutral = (spec or ReportSpec()).model_copy(update={"settings": None, "conditions": None})
    tables = SweepTable(rows_a, axes, neutral), SweepTable(rows_b, axes, neutral)
    keyed = _by_key(tables[0]), _by_key(tables[1])
    metrics = {**tables[0].aim.metrics, **tables[1].aim.metrics}
    both = [key for key in keyed[0] if key in keyed[1]]
    changes, equal, matched = _changes(tables[0], keyed, both, metrics)
    found = [{one.place: one for one in winners(table)} for table in tables]
    shared = [place for place in found[0] if place in found[1]]
    return Comparison(
        names,
        tuple(axes),
        dict(metrics),
        list(dict.fromkeys((*tables[0].policies, *tables[1].policies))),
        changes,
        equal,
        matched,
        [_where(axes, key) for key in keyed[0] if key not in keyed[1]],
        [_where(axes, key) for key in keyed[1] if key not in keyed[0]],
        [
            _changed(axes, found[0][place], found[1][place])
            for place in shared
            if found[0][place].policy != found[1][place].policy
        ],
        len(both),
        len(shared),
    )


def _shared(rows: Sequence[Row], mine: Sequence[str], other: Sequence[str], name: str) -> list[str]:
    """Return the axes of both, or say which one alone varies."""
    for axis in mine:
        if axis not in other and axis not in SAMPLE:
            values = in_order(list(dict.fromkeys(row.get(axis) for row in rows)))
            if len(values) > 1:
                raise InputError(
                    "only this sweep varies the axis, so its rows have no match",
                    place=f"{name}: {axis}",
                    value=values,
                    remedy="compare sweeps of the same axes, or keep one value",
                )
    return [axis for axis in mine if axis in other and axis not in SAMPLE]


def _by_key(table: SweepTable) -> dict[Key, Row]:
    # Seed None and draw None stand for a sweep without them: their one sample.
    return {
        (place, policy, sample): row
        for (place, policy), cell in table.cells.items()
        for sample, row in cell.rows.items()
    }


def _where(axes: Sequence[str], key: Key) -> Flat:
    place, policy, sample = key
    return {
        **dict(zip(axes, place, strict=True)),
        "policy": policy,
        "seed": sample.seed,
        "draw": sample.draw,
    }


def _changes(
    table: SweepTable,
    rows: tuple[Mapping[Key, Row], Mapping[Key, Row]],
    keys: Sequence[Key],
    metrics: Mapping[str, str],
) -> tuple[list[Flat], int, int]:
    found, equal, matched = [], 0, 0
    for key in keys:
        for metric, better in metrics.items():
            first, second = (number(side[key].get(metric)) for side in rows)
            if first is None and second is None:
                continue
            matched += 1
            if first == second:
                equal += 1
                continue
            there = first is not None and second is not None
            change = 100.0 * (second - first) / abs(first) if there and first else None  # type: ignore[operator]  # both are there
            gain = (second < first) == (better == "lower") if there else None  # type: ignore[operator]  # both are there
            at = _where(table.axes, key)
            found.append(
                {**at, "metric": metric, "first": first, "second": second,
                 "change_percent": change, "better": gain}
            )  # fmt: skip
    order = list(metrics)
    found.sort(key=lambda row: (-_size(row["change_percent"]), order.index(row["metric"])))
    return found, equal, matched


def _size(change: float | None) -> float:
    return float("inf") if change is None else abs(change)


def _changed(axes: Sequence[str], first: Winner, second: Winner) -> Flat:
    return {
        **dict(zip(axes, first.place, strict=True)),
        "first_winner": first.policy,
        "first_margin": _margin(first),
        "second_winner": second.policy,
        "second_margin": _margin(second),
        "both_ties": first.tie and second.tie,
    }


def _margin(one: Winner) -> str:
    if one.margin is None:
        return ""
    return percent(one.margin.center) + spread(one.margin) + (" (a tie)" if one.tie else "")


def _texts(found: Comparison) -> list[str]:
    first, second = found.names
    if found.same:
        return [
            f"{first} and {second} are the same: all {found.matched} values of {found.rows} rows."
        ]
    texts = [
        f"{found.rows} rows are in both; {found.equal} of their {found.matched} values are equal."
    ]
    texts += [
        f"{len(rows)} rows are in {name} only."
        for name, rows in ((first, found.only_first), (second, found.only_second))
        if rows
    ]
    texts += _largest(found)
    if found.winners:
        moves = Counter(
            f"{row['first_winner'] or 'nobody'} to {row['second_winner'] or 'nobody'}"
            for row in found.winners
        )
        listed = ", ".join(f"{move} at {count}" for move, count in moves.most_common())
        text = f"The winner changes at {len(found.winners)} of {found.places} points: {listed}."
        ties = sum(row["both_ties"] for row in found.winners)
        texts.append(text + (f" {ties} of these are ties in both." if ties else ""))
    elif found.places:
        texts.append(f"The winner is the same at all {found.places} points.")
    return texts


def _largest(found: Comparison) -> list[str]:
    changes = [row for row in found.of(found.metric) if row["change_percent"] is not None]
    if not changes:
        return [f"{found.metric} differs in no row of both."]
    top = changes[0]
    better = sum(row["better"] for row in changes)
    at = told([short(name) for name in found.axes], tuple(top[name] for name in found.axes))
    return [
        f"{found.metric} differs in {len(changes)} rows: {found.names[1]} is better in {better} "
        f"and worse in {len(changes) - better}. The largest change is "
        f"{_signed(top['change_percent'])}, {top['policy']}{f' at {at}' if at else ''}."
    ]


def write_comparison(found: Comparison, directory: str | Path) -> list[Path]:
    """Write ``compare.html``, ``compare.json`` and ``compare.csv``.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    import json

    from .html_compare import comparison_page

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "compare.html": comparison_page(found),
        "compare.json": json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n",
        "compare.csv": found.to_csv(),
    }
    files = []
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
        files.append(directory / name)
    return files
