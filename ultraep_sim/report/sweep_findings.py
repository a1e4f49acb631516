"""What a sweep found, in numbers: winners with margins, the cost of a wrong choice, advice.

Samples (seeds, draws of assumed parameters) are compared in pairs: a difference is always taken
within the same seed and draw, so that what both contenders share cancels (common random numbers;
Law, Simulation Modeling and Analysis, section 11.2). Differences are relative, in percent, and
positive where they speak for the first of the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .sweep_table import (
    HIGH,
    LOW,
    Band,
    Cell,
    Place,
    Sample,
    SweepTable,
    band,
    center,
    percentile,
)

Values = Mapping[Sample, float]


@dataclass(frozen=True)
class Winner:
    """Who is best at one place.

    Attributes
    ----------
    place : tuple
    policy : str or None
        None where no policy that fits has a value.
    value : Band or None
        Of the winner.
    runner_up : str or None
    margin : Band or None
        What the winner saves (or gains), in percent of the runner-up.
    tied : tuple of str
        Policies whose difference to the winner has a band that includes 0.
    not_fitting, missing : tuple of str
        Policies that could not win: too large for the memory, or without a value.
    """

    place: Place
    policy: str | None
    value: Band | None = None
    runner_up: str | None = None
    margin: Band | None = None
    tied: tuple[str, ...] = ()
    not_fitting: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def tie(self) -> bool:
        """Whether the band of the margin includes 0."""
        return bool(self.tied)


class Choice(NamedTuple):
    """A policy and one value for each of some axes; None for the policy stands for the best."""

    policy: str | None
    setting: Place


@dataclass(frozen=True)
class Regret:
    """What it costs to make one choice everywhere instead of the best at each place.

    Attributes
    ----------
    choice : Choice
    mean : Band
        Mean loss over the places, percent of the best.
    p90, worst : float
        90th percentile (linear interpolation) and largest of the losses, percent.
    worst_at : tuple
        The place of the largest.
    places, out_of : int
        Places that count, and places at which anything could be chosen.
    not_fitting : int
        Places at which the choice does not fit in memory.
    memory : float or None
        Largest over the places; None where the policy is left open.
    """

    choice: Choice
    mean: Band
    p90: float
    worst: float
    worst_at: Place
    places: int
    out_of: int
    not_fitting: int
    memory: float | None

    @property
    def everywhere(self) -> bool:
        """Whether the choice can be made at every place."""
        return self.places == self.out_of

    @property
    def standing(self) -> tuple[int, bool]:
        """What counts before any loss: that it fits, and that it was seen at half of the places."""
        return self.not_fitting, 2 * self.places < self.out_of


def gain(first: Values, second: Values, sign: int) -> dict[Sample, float]:
    """Return how much better the first is, percent of the second, for the samples of both."""
    found = {}
    for sample in first:
        if sample in second:
            change = sign * (second[sample] - first[sample])
            if change == 0.0:
                found[sample] = 0.0
            elif second[sample] != 0.0:
                found[sample] = 100.0 * change / abs(second[sample])
    return found


def _common(values: Mapping[str, Values]) -> dict[str, dict[Sample, float]]:
    """Keep the samples that all have; those with the fewest stand back until there is one."""
    left = sorted(values, key=lambda name: -len(values[name]))
    kept: list[str] = []
    samples: set[Sample] = set()
    for name in left:
        both = samples & set(values[name]) if kept else set(values[name])
        if both:
            kept, samples = [*kept, name], both
    return {
        name: {s: v for s, v in values[name].items() if s in samples}
        for name in values
        if name in kept
    }


def winner(table: SweepTable, place: Place, metric: str) -> Winner:
    """Return who is best at a place."""
    sign = table.aim.sign(metric)
    here = table.at(place)
    offers = table.offers(place)
    values = {name: cell.values(metric) for name, cell in offers.items()}
    paired = _common({name: found for name, found in values.items() if found})
    buyable = [name for name in table.policies if name not in table.aim.spec.bounds]
    not_fitting = tuple(name for name in here if name in buyable and name not in offers)
    missing = tuple(n for n in buyable if n not in paired and n not in not_fitting)
    if not paired:
        return Winner(place, None, not_fitting=not_fitting, missing=missing)
    best, *others = sorted(paired, key=lambda name: sign * center(paired[name]))
    margins = {}
    for name in others:
        found = gain(paired[best], paired[name], sign)
        if found:
            margins[name] = band(found)
    runner_up = next(iter(others), None)
    return Winner(
        place,
        best,
        band(paired[best]),
        runner_up,
        None if runner_up is None else margins.get(runner_up),
        tuple(name for name, found in margins.items() if found.includes_zero),
        not_fitting,
        missing,
    )


def winners(table: SweepTable, metric: str | None = None) -> list[Winner]:
    """Return who is best at each place, by the headline metric where no other is named."""
    return [winner(table, place, metric or table.aim.metric) for place in table.places]


def _best_of(cells: Iterable[Cell], metric: str, sign: int) -> dict[Sample, float]:
    """Return the values of the cell with the best center; empty where none has a value."""
    found = [values for values in (cell.values(metric) for cell in cells) if values]
    return min(found, key=lambda values: sign * center(values), default={})


def _spread(losses: Mapping[Place, Values]) -> Band:
    """Return mean over places with the band of that mean over the samples all places have."""
    shared = set.intersection(*(set(found) for found in losses.values()))
    middle = math.fsum(center(found) for found in losses.values()) / len(losses)
    means = [math.fsum(found[s] for found in losses.values()) / len(losses) for s in shared]
    if len(means) < 2:
        return Band(middle, None, None, len(means))
    return Band(middle, percentile(means, LOW), percentile(means, HIGH), len(means))


def _losses(
    table: SweepTable, metric: str, of: Sequence[str], by_policy: bool
) -> tuple[dict[Choice, dict[Place, Values]], dict[Choice, list[Cell]], dict[Choice, int], int]:
    """Return what each choice loses at each place of the other axes, its cells, and misfits."""
    sign = table.aim.sign(metric)
    rest = [name for name in table.axes if name not in of]
    groups: dict[Place, list[Place]] = {}
    for place in table.places:
        groups.setdefault(table.part(place, rest), []).append(place)
    losses: dict[Choice, dict[Place, Values]] = {}
    used: dict[Choice, list[Cell]] = {}
    misfits: dict[Choice, int] = {}
    count = 0
    for at, places in groups.items():
        options: dict[Choice, list[Cell]] = {}
        too_large: set[Choice] = set()
        for place in places:
            setting = table.part(place, of)
            offers = table.offers(place)
            for policy, cell in table.at(place).items():
                choice = Choice(policy if by_policy else None, setting)
                if policy in offers:
                    options.setdefault(choice, []).append(cell)
                elif policy not in table.aim.spec.bounds and not cell.fits:
                    too_large.add(choice)
        values = {c: _best_of(cells, metric, sign) for c, cells in options.items()}
        values = {choice: found for choice, found in values.items() if found}
        if not values:
            continue
        for choice in too_large - set(values):
            misfits[choice] = misfits.get(choice, 0) + 1
        count += 1
        best = min(values.values(), key=lambda found: sign * center(found))
        for choice, found in values.items():
            lost = {sample: -value for sample, value in gain(found, best, sign).items()}
            if lost:
                losses.setdefault(choice, {})[at] = lost
                used.setdefault(choice, []).extend(options[choice])
    return losses, used, misfits, count


def regrets(
    table: SweepTable,
    of: Sequence[str] = (),
    *,
    by_policy: bool = True,
    metric: str | None = None,
) -> list[Regret]:
    """Return what each choice costs when it is made everywhere.

    Those that fit at most places come first, then those with the least mean loss.

    Parameters
    ----------
    table : SweepTable
    of : sequence of str
        Axes whose value is chosen once for all; the other axes make the places. Empty: only the
        policy is chosen.
    by_policy : bool
        False: the policy may differ from place to place, and only the axes of ``of`` are bound.
    metric : str, optional
    """
    metric = metric or table.aim.metric
    losses, used, misfits, count = _losses(table, metric, of, by_policy)
    found = []
    for choice, lost in losses.items():
        centers = {at: center(values) for at, values in lost.items()}
        worst_at = max(centers, key=lambda at: centers[at])
        memory = [cell.memory for cell in used[choice] if cell.memory is not None]
        found.append(
            Regret(
                choice,
                _spread(lost),
                percentile(list(centers.values()), 90.0),
                centers[worst_at],
                worst_at,
                len(lost),
                count,
                misfits.get(choice, 0),
                max(memory, default=None) if by_policy else None,
            )
        )
    return sorted(found, key=lambda one: (*one.standing, one.mean.center))


@dataclass(frozen=True)
class Advice:
    """What to use.

    Attributes
    ----------
    choice : Regret
        Policy and settings, with their cost over all conditions.
    fastest : Regret
        The choice with the least mean loss; another than ``choice`` where memory decided.
    runner_up : Regret or None
        The best choice with another policy.
    margin : Band or None
        Of the choice over the runner-up, percent, mean over the conditions of both.
    """

    choice: Regret
    fastest: Regret
    runner_up: Regret | None
    margin: Band | None


def advice(table: SweepTable, metric: str | None = None) -> Advice | None:
    """Return the policy and settings to use under all conditions, or None where nothing can be.

    The policy is that of the choice with the least mean loss; its settings are those with the
    least memory among all whose mean loss is within the tolerance of that. The runner-up is the
    best other policy, with settings chosen alike.
    """
    metric = metric or table.aim.metric
    found = regrets(table, table.aim.settings, metric=metric)
    if not found:
        return None
    fastest = found[0]
    choice = _thrifty(table, found, fastest)
    other = next((one for one in found if one.choice.policy != choice.choice.policy), None)
    runner_up = None if other is None else _thrifty(table, found, other)
    margin = None if runner_up is None else _margin(table, metric, choice, runner_up)
    return Advice(choice, fastest, runner_up, margin)


def _thrifty(table: SweepTable, found: Sequence[Regret], best: Regret) -> Regret:
    """Return the choice of the same policy that is as good and takes the least memory."""
    limit = best.mean.center + table.aim.spec.tolerance_percent
    near = [
        one
        for one in found
        if one.choice.policy == best.choice.policy
        and one.mean.center <= limit
        and one.standing == best.standing
        and one.memory is not None
    ]
    # Memory is compared to a MB: what differs by less is equal, and the faster one is taken.
    return min(near, key=lambda one: (round(one.memory or 0.0, 3), one.mean.center), default=best)


def _margin(table: SweepTable, metric: str, first: Regret, second: Regret) -> Band | None:
    mine, others = (values_of(table, metric, one.choice) for one in (first, second))
    gains = {at: gain(mine[at], others[at], table.aim.sign(metric)) for at in mine if at in others}
    gains = {at: found for at, found in gains.items() if found}
    return _spread(gains) if gains else None


def values_of(table: SweepTable, metric: str, choice: Choice) -> dict[Place, dict[Sample, float]]:
    """Return the values of a policy with its settings at each condition where it fits."""
    aim = table.aim
    found = {}
    for place in table.places:
        if table.part(place, aim.settings) == choice.setting:
            cell = table.offers(place).get(str(choice.policy))
            values = cell.values(metric) if cell else {}
            if values:
                found[table.part(place, aim.conditions)] = values
    return found


class ParetoPoint(NamedTuple):
    """A choice on the plane of throughput against memory.

    ``speed`` is the throughput in percent of the best choice at each condition, averaged; the
    front holds the choices that fit everywhere and that none beats in both.
    """

    choice: Choice
    memory: float
    speed: float
    fits: bool
    on_front: bool


def pareto(table: SweepTable, metric: str | None = None) -> list[ParetoPoint]:
    """Return all choices by memory, with the front marked; empty where no memory is known."""
    metric = metric or table.aim.metric
    sign = table.aim.sign(metric)
    groups: dict[Choice, dict[Place, Cell]] = {}
    for (place, policy), cell in table.cells.items():
        if policy not in table.aim.spec.bounds and cell.memory is not None and cell.values(metric):
            choice = Choice(policy, table.part(place, table.aim.settings))
            groups.setdefault(choice, {})[table.part(place, table.aim.conditions)] = cell
    conditions = {at for cells in groups.values() for at in cells}
    best = {
        at: _best_of((c[at] for c in groups.values() if at in c and c[at].fits), metric, sign)
        for at in conditions
    }
    points = []
    for choice, cells in groups.items():
        if set(cells) == conditions and all(best.values()):
            speed = math.fsum(_speed(cells[at], best[at], metric, sign) for at in cells)
            memory = max(cell.memory or 0.0 for cell in cells.values())
            fits = all(cell.fits for cell in cells.values())
            points.append((choice, memory, speed / len(cells), fits))
    points.sort(key=lambda one: (one[1], -one[2]))
    found, top = [], -math.inf
    for choice, memory, speed, fits in points:
        on_front = fits and speed > top
        top = max(top, speed) if fits else top
        found.append(ParetoPoint(choice, memory, speed, fits, on_front))
    return found


def _speed(cell: Cell, best: Values, metric: str, sign: int) -> float:
    """Return throughput over the best one's: a time counts inversely."""
    mine, top = center(cell.values(metric)), center(best)
    over, under = (top, mine) if sign > 0 else (mine, top)
    return 100.0 * over / under if under else math.nan
