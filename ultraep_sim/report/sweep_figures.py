"""The data behind every figure of a sweep's report, as flat rows; CSV, plots and page share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from .sweep_findings import Choice, Regret, Winner, pareto, regrets, winners
from .sweep_table import Band, Place, SweepTable, band, number, shown

Flat = dict[str, Any]
_BETWEEN = "; "  # names of policies may hold spaces


def flat(name: str, found: Band | None) -> Flat:
    """Return a band as four columns."""
    if found is None:
        return {name: None, f"{name}_p5": None, f"{name}_p95": None, "samples": 0}
    return {name: found.center, f"{name}_p5": found.low, f"{name}_p95": found.high,
            "samples": found.samples}  # fmt: skip


def _once(make: Callable[[SweepTable, str], list[Flat]]) -> Callable[[SweepTable, str], list[Flat]]:
    """Let page, plots and CSV share what one of them worked out."""

    @wraps(make)
    def found(table: SweepTable, metric: str) -> list[Flat]:
        key = (make.__name__, metric)
        if key not in table.memo:
            table.memo[key] = make(table, metric)
        return list(table.memo[key])

    return found


@_once
def winner_rows(table: SweepTable, metric: str) -> list[Flat]:
    """Return the winner of every place: margin in percent of the runner-up."""
    return [_winner(table, one, metric) for one in winners(table, metric)]


def _winner(table: SweepTable, one: Winner, metric: str) -> Flat:
    return {
        **dict(zip(table.axes, one.place, strict=True)),
        "metric": metric,
        "winner": one.policy,
        "value": None if one.value is None else one.value.center,
        "runner_up": one.runner_up,
        **flat("margin_percent", one.margin),
        "tied_with": _BETWEEN.join(one.tied),
        "not_fitting": _BETWEEN.join(one.not_fitting),
        "missing": _BETWEEN.join(one.missing),
    }


@_once
def curve_rows(table: SweepTable, metric: str) -> list[Flat]:
    """Return every policy at every place where it has a value, with its band over samples."""
    found = []
    for place in table.places:
        for policy, cell in table.at(place).items():
            values = cell.values(metric)
            if values:
                at = dict(zip(table.axes, place, strict=True))
                value = flat("value", band(values))
                memory = {table.aim.spec.memory: cell.memory}
                found.append(
                    {**at, "policy": policy, "metric": metric, **value, "fits": cell.fits, **memory}
                )
    return found


def families(table: SweepTable) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Return what may be chosen once for all: its axes, and whether the policy is.

    Named by what is chosen: ``policy``, each setting alone, and all together.
    """
    found: dict[str, tuple[tuple[str, ...], bool]] = {"policy": ((), True)}
    settings = table.aim.settings
    found |= {axis: ((axis,), False) for axis in settings if len(table.values[axis]) > 1}
    if settings:
        found[" + ".join(("policy", *settings))] = (settings, True)
    return found


@_once
def regret_rows(table: SweepTable, metric: str) -> list[Flat]:
    """Return the loss of every choice in percent of the best, the least mean loss first."""
    found = []
    for family, (axes, by_policy) in families(table).items():
        rest = [name for name in table.axes if name not in axes]
        losses = regrets(table, axes, by_policy=by_policy, metric=metric)
        found += [_regret(family, axes, rest, one, metric) for one in losses]
    return found


def _regret(
    family: str, axes: Sequence[str], rest: Sequence[str], one: Regret, metric: str
) -> Flat:
    return {
        "chosen": family,
        "choice": choice_name(one.choice, axes),
        "metric": metric,
        "policy": one.choice.policy,
        **flat("mean_loss_percent", one.mean),
        "p90_loss_percent": one.p90,
        "worst_loss_percent": one.worst,
        "worst_at": words(rest, one.worst_at),
        "points": one.places,
        "of_points": one.out_of,
        "does_not_fit_at": one.not_fitting,
    }


@_once
def pareto_rows(table: SweepTable, metric: str) -> list[Flat]:
    """Return throughput (percent of the best choice) against memory of every choice."""
    return [
        {
            "choice": choice_name(one.choice, table.aim.settings),
            "policy": one.choice.policy,
            **dict(zip(table.aim.settings, one.choice.setting, strict=True)),
            "metric": metric,
            table.aim.spec.memory: one.memory,
            "throughput_percent_of_best": number(one.speed),
            "fits": one.fits,
            "on_front": one.on_front,
        }
        for one in pareto(table, metric)
    ]


def words(axes: Sequence[str], place: Place) -> str:
    """Return coordinates as text, with the short names of the axes."""
    return ", ".join(f"{short(name)} {shown(v)}" for name, v in zip(axes, place, strict=True))


def choice_name(choice: Choice, axes: Sequence[str]) -> str:
    """Return a choice as a short label."""
    return ", ".join(filter(None, (choice.policy, words(axes, choice.setting))))


def short(axis: str) -> str:
    """Return the last part of a scenario path, as plots have little room."""
    return axis.rsplit(".", 1)[-1]


def main_axis(table: SweepTable) -> str | None:
    """Return the axis to draw along: of those with most values a setting, of numbers first."""
    varied = [name for name in table.axes if len(table.values[name]) > 1] or list(table.axes)

    def rank(name: str) -> tuple[bool, int, bool]:
        numbers = all(number(value) is not None for value in table.values[name])
        return numbers, len(table.values[name]), name in table.aim.settings

    return max(varied, key=rank, default=None)


def others(table: SweepTable, axis: str | None) -> list[Place]:
    """Return the coordinates on all other axes that occur, in order."""
    rest = [name for name in table.axes if name != axis]
    return list(dict.fromkeys(table.part(place, rest) for place in table.places))
