"""Searches instead of grids: the smallest value that does, and what trades two aims best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, ScenarioError
from .condition import Condition
from .points import Row, Setting, points_at, settings_of
from .runner import Runner
from .search_spec import ParetoSpec, SmallestSpec
from .spec import SweepSpec
from .store import Part

#: Trials that are chosen together, so that they can run together.
GENERATION = 8


def find_smallest(runner: Runner, spec: SweepSpec, wanted: SmallestSpec) -> list[Row]:
    """Bisect at every combination of the axes, all of them round by round together.

    Returns
    -------
    list of dict
        One a combination: its columns, ``wanted.of`` (None where even the largest value does not
        do), ``below`` (the largest value seen not to do, None where the smallest did),
        ``probes``, and ``monotone``, False where the smallest value does and the largest does not.

    Raises
    ------
    InputError
        A scenario is wrong, the condition names a column that is not there, or a point failed.
    """
    hunts = [_Hunt(wanted, chosen) for chosen in settings_of(spec)]
    while asked := [(hunt, value) for hunt in hunts for value in hunt.asks()]:
        sets = [points_at(spec, hunt.chosen, {wanted.of: value}) for hunt, value in asked]
        parts = iter(runner.run([point for points in sets for point in points], "probes"))
        for (hunt, value), points in zip(asked, sets, strict=True):
            mine = [next(parts) for _ in points]
            hunt.hears(value, _holds(wanted, mine, f"{wanted.of}={value}"))
    return [hunt.answer() for hunt in hunts]


class _Hunt:
    """The search at one combination: ends first, then midpoints."""

    def __init__(self, wanted: SmallestSpec, chosen: Setting) -> None:
        self.chosen = chosen
        self._wanted = wanted
        self._heard: dict[int | float, bool] = {}

    def asks(self) -> list[int | float]:
        """Return the values to try next; none when the search is over."""
        low, high = self._wanted.between
        if not self._heard:
            return [low, high]
        if self._heard[low] or not self._heard[high]:
            return []
        below, above = self._bracket()
        if self._wanted.whole:
            return [int(below + above) // 2] if above - below > 1 else []
        if above <= below * (1 + self._wanted.tolerance):
            return []
        return [float(f"{math.sqrt(below * above):.6g}")]

    def hears(self, value: int | float, holds: bool) -> None:
        """Take in what a probe said."""
        self._heard[value] = holds

    def _bracket(self) -> tuple[float, float]:
        above = min(value for value, holds in self._heard.items() if holds)
        below = max(v for v, holds in self._heard.items() if not holds and v < above)
        return below, above

    def answer(self) -> Row:
        """Return the row that says what was found."""
        told = {k: v for name, one in self.chosen for k, v in one.columns(name).items()}
        does = [value for value, holds in self._heard.items() if holds]
        fails = [value for value, holds in self._heard.items() if not holds]
        found = min(does, default=None)
        return told | {
            "policy": self._wanted.policy,
            self._wanted.of: found,
            "below": max((v for v in fails if found is None or v < found), default=None),
            "probes": len(self._heard),
            "monotone": not (does and fails) or max(fails) < min(does),
        }


def _holds(wanted: SmallestSpec, parts: Sequence[Part], place: str) -> bool:
    """Decide the condition on means over seeds, in enough of the draws."""
    rows = [row for part in parts for row in _rows_of(part, wanted.policy, place)]
    by_draw: dict[Any, list[Row]] = {}
    for row in rows:
        by_draw.setdefault(row.get("draw"), []).append(row)
    condition = Condition(wanted.condition)
    try:
        held = [condition.holds(mean_row(group)) for group in by_draw.values()]
    except ValueError as error:
        raise ScenarioError(
            str(error), place="smallest.condition", value=wanted.condition,
            remedy="name columns of the results",
        ) from error  # fmt: skip
    return sum(held) >= wanted.confidence * len(held)


def _rows_of(part: Part, policy: str, place: str) -> list[Row]:
    if part.error is not None:
        raise InputError(
            f"the search needs a point that failed: {part.error}", place=place,
            remedy="narrow smallest.between, or mend what failed",
        )  # fmt: skip
    rows = [row for row in part.rows if row["policy"] == policy]
    if not rows:
        raise ScenarioError(
            "the scenario runs no such policy", place="policy", value=policy,
            remedy=f"one of {', '.join(row['policy'] for row in part.rows)}",
        )  # fmt: skip
    return rows


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the mean of numbers over rows; of the rest what the first says, of flags whether all.

    A number that some row lacks (None) is lacking.
    """
    found: Row = {}
    for name, first in rows[0].items():
        values = [row.get(name) for row in rows]
        if isinstance(first, bool):
            found[name] = all(values)
        elif isinstance(first, int | float):
            whole = all(isinstance(value, int | float) for value in values)
            found[name] = float(np.mean(values)) if whole else None  # type: ignore[arg-type]
        else:
            found[name] = first
    return found


def explore(runner: Runner, spec: SweepSpec, wanted: ParetoSpec) -> None:
    """Let Optuna's NSGA-II choose points of the grid; the runner keeps what they gave.

    The same file and seed choose the same points, also when a killed search goes on: trials are
    asked for in generations, and a generation's answers are told in its order.

    Raises
    ------
    InputError
        Optuna is not installed, a point failed, or there is no such column or policy.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "optuna is not installed", place="pareto.trials", value=wanted.trials,
            remedy="pip install 'ultraep-sim[search]', or leave trials out to run the whole grid",
        ) from error  # fmt: skip
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    aims = [*wanted.maximise, *wanted.minimise]
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(
        directions=[up] * len(wanted.maximise) + [down] * len(wanted.minimise),
        sampler=optuna.samplers.NSGAIISampler(population_size=GENERATION, seed=0),
    )
    settings = {_named(chosen): chosen for chosen in settings_of(spec)}
    trials = wanted.trials or len(settings)
    for begin in range(0, trials, GENERATION):
        batch = []
        for _ in range(min(GENERATION, trials - begin)):
            trial = study.ask()
            chosen = tuple(
                (name, values[trial.suggest_int(name, 0, len(values) - 1)])
                for name, values in spec.axes.items()
            )
            batch.append((trial, settings.get(_named(chosen))))
        sets = [[] if kept is None else points_at(spec, kept) for _, kept in batch]
        parts = iter(runner.run([point for points in sets for point in points], "trials"))
        for (trial, kept), points in zip(batch, sets, strict=True):
            mine = [next(parts) for _ in points]
            if kept is None:  # a filter leaves it out
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            rows = [r for part in mine for r in _rows_of(part, str(wanted.policy), "pareto")]
            study.tell(trial, [_aim(mean_row(rows), aim) for aim in aims])


def _named(chosen: Setting) -> tuple[str, ...]:
    return tuple(repr(one.value) for _, one in chosen)


def _aim(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScenarioError(
            "no number in the results", place="pareto", value=name,
            remedy="name columns with numbers, such as layer_time_ms and memory_GB",
        )  # fmt: skip
    return float(value)


def pareto_front(rows: Sequence[Row], wanted: ParetoSpec, settings: Sequence[str]) -> list[Row]:
    """Return what no other row beats in all aims, means over seeds and draws.

    Parameters
    ----------
    rows : sequence of dict
    wanted : ParetoSpec
        Rows that do not fit into memory take no part.
    settings : sequence of str
        Columns that tell settings apart, besides the policy.

    Returns
    -------
    list of dict
        Settings, policy and aims, by the first aim, best first.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if wanted.policy in (None, row["policy"]) and row.get("fits") is not False:
            at = tuple(row.get(name) for name in (*settings, "policy"))
            groups.setdefault(at, []).append(row)
    if not groups:
        return []
    aims = [*wanted.maximise, *wanted.minimise]
    means = [mean_row(group) for group in groups.values()]
    sign = np.array([-1.0] * len(wanted.maximise) + [1.0] * len(wanted.minimise))
    costs = np.array([[_aim(row, aim) for aim in aims] for row in means]) * sign
    worse_or_same = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    beaten = (worse_or_same & better).any(axis=0)
    kept = [at for at in np.lexsort(costs.T[::-1]) if not beaten[at]]
    names = [*settings, "policy", *aims]
    return [{name: means[at].get(name) for name in names} for at in kept]
