"""The largest request rate a rack serves inside its SLO, by bracketing, with common random numbers.

Every policy gets the same requests: at another rate the same ones sooner or later. So the time to
first token is nearly smooth in the rate, and differences between policies are theirs. The search is
repeated on independent seeds; their spread is the confidence interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..model.draws import under_draw
from .metrics import statistic
from .requests import Requests, make_requests
from .server import REFUSED, SERVED, TIMED_OUT, TOO_LONG, Server
from .setup import Setup, make_setup

if TYPE_CHECKING:
    from ..engine.replay import PolicyReplay
    from ..scenario import Scenario

Progress = Callable[[str, int, int], None]

#: Two-sided 95 % quantiles of Student's t for 1 to 15 degrees of freedom (any table; scipy is no
#: dependency of the core).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131,
)  # fmt: skip
_MOST_DOUBLINGS = 12
_MOST_LOST = 0.01


@dataclass(frozen=True)
class Point:
    """One run of a search.

    Attributes
    ----------
    seed : int
    rate_per_s : float
    ttft_s : float or None
        Mean or 99th percentile, as the SLO says; None where the run was stopped because it could
        no longer meet the line.
    meets : bool
    mean_rank_imbalance : float
        Mean over its steps, weighted by tokens.
    """

    seed: int
    rate_per_s: float
    ttft_s: float | None
    meets: bool
    mean_rank_imbalance: float


@dataclass(frozen=True)
class Capacity:
    """The largest rate of one policy.

    Attributes
    ----------
    policy : str
    rate_per_s : float
        Mean over seeds of the largest rate that meets the line.
    low, high : float or None
        95 % confidence interval of that mean over seeds (Student's t); None with one seed.
    by_seed : list of float
    mean_rank_imbalance : float
        At the largest rates.
    points : list of Point
        Every run of the search, in order.
    """

    policy: str
    rate_per_s: float
    low: float | None
    high: float | None
    by_seed: list[float]
    mean_rank_imbalance: float
    points: list[Point]


@under_draw
def find_capacity(
    scenario: Scenario,
    *,
    seeds: Sequence[int] | None = None,
    tolerance: float = 0.01,
    progress: Progress | None = None,
) -> list[Capacity]:
    """Find the largest request rate of every policy whose mean or p99 TTFT meets the SLO.

    Parameters
    ----------
    scenario : Scenario
        Its arrival rate is where the search begins. What it says of time-outs, cancelled requests
        and queue limits holds; a request that ends without its first token counts as one that
        waited for it until then. A rate at which more than 1 % are refused or time out does not
        meet the line: turning requests away must not look like serving them fast.
    seeds : sequence of int, optional
        Independent repetitions; the scenario's own and the two after it by default.
    tolerance : float
        Relative width of the bracket at which a search ends.
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each search.

    Returns
    -------
    list of Capacity
        One a policy.

    Raises
    ------
    InputError
        No rate in reach meets the line, or every one does.
    """
    chosen = [scenario.seed + i for i in range(3)] if seeds is None else list(seeds)
    if not chosen or not 0 < tolerance < 1:
        raise InputError(
            "a search needs a seed and a tolerance between 0 and 1",
            place="find_capacity",
            value=(chosen, tolerance),
            remedy="give at least one seed, and for example tolerance=0.01",
        )
    labels = [spec.label for spec in scenario.policies]
    found: dict[str, list[tuple[Point, list[Point]]]] = {label: [] for label in labels}
    done, total = 0, len(labels) * len(chosen)
    for seed in chosen:
        setup = make_setup(scenario.model_copy(update={"seed": seed}))
        start = mean_rate(setup)
        for label in labels:
            best, points = _search(setup, label, start, tolerance)
            found[label].append((best, points))
            start = best.rate_per_s  # policies are alike: begin where the last one ended
            done += 1
            if progress is not None:
                progress("searching", done, total)
    return [_capacity(label, found[label]) for label in labels]


def measure(setup: Setup, label: str, rate_per_s: float, *, stop: bool = True) -> Point:
    """Serve a setup's requests at one rate under one policy.

    Parameters
    ----------
    setup : Setup
    label : str
        Of the policy.
    rate_per_s : float
    stop : bool
        Whether the run may end as soon as it is certain that it misses the line.
    """
    spec = setup.scenario.serving
    assert spec is not None  # noqa: S101  (make_setup has seen it)
    requests = make_requests(setup.scenario, rate_per_s=rate_per_s)
    counted = requests.arrival_s >= spec.warmup_s
    watch = _Hopeless(requests, counted, spec.slo.ttft_s, spec.slo.statistic) if stop else None
    service, steps = setup.serve(_replay(setup, label), requests, watch)
    waited = (service.end_s - requests.arrival_s)[counted]
    ttft = None if service.stopped_early else statistic(waited, spec.slo.statistic)
    weights = [step.tokens for step in steps.log]
    # Nothing ran where every prompt is too long for the cache: perfectly even, and no rate.
    imbalance = np.average([s.imbalance for s in steps.log], weights=weights) if weights else 1.0
    served = bool((service.outcome[counted] == SERVED).any())
    lost = np.isin(service.outcome[counted], (TIMED_OUT, REFUSED, TOO_LONG))
    kept = served and float(lost.mean()) <= _MOST_LOST
    meets = ttft is not None and kept and ttft <= spec.slo.ttft_s
    return Point(setup.scenario.seed, rate_per_s, ttft, meets, float(imbalance))


def mean_rate(setup: Setup) -> float:
    """Return the requests a second of a scenario, as they arrive."""
    work = setup.scenario.workload.requests
    assert work is not None  # noqa: S101  (make_setup has seen it)
    return work.arrivals.rate_per_s or len(setup.requests) / work.duration_s


def _replay(setup: Setup, label: str) -> PolicyReplay:
    return next(replay for replay in setup.replays() if replay.label == label)


def _search(setup: Setup, label: str, start: float, tolerance: float) -> tuple[Point, list[Point]]:
    """Double or halve until the line lies between two rates, then bisect their logarithm."""
    points: list[Point] = []

    def at(rate: float) -> Point:
        points.append(measure(setup, label, rate))
        return points[-1]

    point = at(start)
    good, bad = (point, None) if point.meets else (None, point)
    step = 1.25
    for _ in range(_MOST_DOUBLINGS):
        if good is not None and bad is not None:
            break
        last = points[-1].rate_per_s
        point = at(last * step if good is not None else last / step)
        good, bad = (point, bad) if point.meets else (good, point)
        step = min(2.0, step * step)
    if good is None or bad is None:
        raise InputError(
            "no rate in reach meets the line" if good is None else "every rate in reach meets it",
            place=f"serving.slo.ttft_s, policy {label}",
            value=f"{points[-1].rate_per_s:.4g} requests/s",
            remedy="a request alone may be slower than the line: raise it, or shorten the prompts"
            if good is None
            else "make workload.requests.duration_s longer, or lower the line",
        )
    while bad.rate_per_s / good.rate_per_s > 1 + tolerance:
        point = at(math.sqrt(good.rate_per_s * bad.rate_per_s))
        good, bad = (point, bad) if point.meets else (good, point)
    return good, points


def _capacity(label: str, found: list[tuple[Point, list[Point]]]) -> Capacity:
    rates = [best.rate_per_s for best, _ in found]
    mean, low, high = confidence(rates)
    return Capacity(
        label,
        mean,
        low,
        high,
        rates,
        float(np.mean([best.mean_rank_imbalance for best, _ in found])),
        [point for _, points in found for point in points],
    )


def confidence(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean of independent values and its 95 % interval (Student's t); None for one value."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, None, None
    half = _t95(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half


def _t95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = 1.959964  # of the normal; then its expansion in 1/freedom, off by less than 0.001 from here
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


class _Hopeless:
    """Say after a step whether the line is missed whatever comes.

    All requests that count are known, so their waits so far bound the statistic from below.
    """

    def __init__(
        self, requests: Requests, counted: NDArray[np.bool_], line_s: float, name: str
    ) -> None:
        self._arrival, self._counted = requests.arrival_s, counted
        self._line, self._name = line_s, name
        self._total = int(counted.sum())
        self._due = 0

    def __call__(self, server: Server) -> bool:
        self._due += 1
        if self._due % 16:  # looking costs as much as a step
            return False
        seen = slice(0, server.arrived)
        end = server.end_s[seen]
        until = np.where(np.isnan(end), server.env.now, end)
        waited = (until - self._arrival[seen])[self._counted[seen]]
        if self._name == "mean":
            return bool(waited.sum() > self._line * self._total)
        return bool((waited > self._line).sum() > 0.01 * self._total + 1)


def rows_of(capacities: Sequence[Capacity], names: dict[str, str]) -> list[dict[str, Any]]:
    """Return one plain row a policy, with its rate over that of ``ideal`` where it was searched.

    Both have 95 % intervals over the seeds.

    Parameters
    ----------
    capacities : sequence of Capacity
    names : dict of str to str
        Policy by label.
    """
    ideal = next((c.by_seed for c in capacities if names.get(c.policy) == "ideal"), None)
    rows = []
    for c in capacities:
        # Seed by seed, on the same requests: tighter than the ratio of two independent means.
        shares = [] if ideal is None else (np.array(c.by_seed) / np.array(ideal)).tolist()
        relative, low, high = confidence(shares) if shares else (None, None, None)
        rows.append(
            {
                "policy": c.policy,
                "rate_per_s": c.rate_per_s,
                "rate_low": c.low,
                "rate_high": c.high,
                "relative_to_ideal": relative,
                "relative_low": low,
                "relative_high": high,
                "mean_rank_imbalance": c.mean_rank_imbalance,
                "rates_by_seed": c.by_seed,
            }
        )
    return rows
