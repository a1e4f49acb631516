"""The mosaic planner: which threshold, which order of sources, and when to cross domains.

1. ``first`` = ceil(target x mean), where a rank of speed s counts as s ranks; a scale-up domain
   has its own mean unless replicas may cross. If nobody is above its capacity the plan is empty.
2. Probe ``first``. A probe makes one `mosaic` pass per domain; ``starts`` more passes with shuffled
   sources keep the plan with fewest transfers, among those whose busiest sender and widest
   fan-out are no worse than the first pass's. Where no pass covers a domain the published greedy
   oracle is asked: mosaic is never infeasible where ``ultraep`` is feasible at that threshold.
3. Else search as the published planner does: each round probes `PROBES` equally spaced thresholds;
   the smallest success becomes the upper end. Then the final threshold gets all its starts.

Asked for target 1.0 with effort thorough, it goes on to search placements by `tighten`
(ranks of one speed, no crossing).

Crossing: what a domain cannot cover itself goes to ranks of other domains, best fit as inside.

Everything is integer: the target in 1/10000, speeds in 1/65536.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import ArrayLike, NDArray

from ..errors import PolicyError
from .layout import EPLayout
from .mosaic_probe import SPEED_ONE, allocate, capacity, probe, views
from .quota import PROBES, TARGET_SCALE, QuotaOptions, Solution
from .tighten import tighten

Effort = Literal["fast", "thorough"]

MIN_SPEED, MAX_SPEED = 2**-10, 16.0  # keeps every product of a load and a speed in int64
# Shuffled passes at the final threshold, at a threshold that is only probed, and how fine the
# search ends (mean / resolution).
EFFORTS: dict[str, tuple[int, int, int]] = {"fast": (0, 0, 1024), "thorough": (14, 3, 4096)}
_TIGHT_STARTS = 100  # probes of a thorough search for the best possible balance (target 1.0)


@dataclass(frozen=True)
class MosaicOptions:
    """Options of the mosaic planner.

    Parameters
    ----------
    target : float
        Largest rank load asked for, as a multiple of the mean.
    effort : {"fast", "thorough"}
        One pass, or many with the fewest replicas kept.
    tile_rows : int
        Round replica quotas to whole GEMM tiles where that costs neither balance nor a replica;
        1 for no rounding.
    cross : bool
        Whether what a domain cannot hold may go to another one.

    Raises
    ------
    PolicyError
        If a value is impossible.
    """

    target: float = 1.01
    effort: Effort = "fast"
    tile_rows: int = 1
    cross: bool = False

    def __post_init__(self) -> None:
        QuotaOptions(self.target)  # checks the target
        if self.effort not in EFFORTS:
            raise PolicyError(
                "unknown effort", place="effort", value=self.effort, remedy="fast or thorough"
            )
        if (
            isinstance(self.tile_rows, bool)
            or not isinstance(self.tile_rows, int)
            or self.tile_rows < 1
        ):
            raise PolicyError(
                "not a positive whole number", place="tile_rows", value=self.tile_rows
            )

    @property
    def tight(self) -> bool:
        """Whether the best possible balance is asked for, whatever it takes to find."""
        return self.effort == "thorough" and QuotaOptions(self.target).target_scaled == TARGET_SCALE

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Target (1/10000), tile, crossing, starts, probe starts, resolution: what kernels take."""
        starts, probe_starts, resolution = EFFORTS[self.effort]
        scaled = QuotaOptions(self.target).target_scaled
        if self.tight:
            probe_starts = _TIGHT_STARTS
        return np.array(
            [scaled, self.tile_rows, self.cross, starts, probe_starts, resolution], np.int64
        )


class MosaicSolver:
    """The planner bound to one layout and to the speeds of its ranks.

    Parameters
    ----------
    layout : EPLayout
    speeds : array_like of float, shape [ranks], optional
        Relative speed of each rank, 1.0 for normal; a rank of speed s may carry threshold x s.

    Raises
    ------
    PolicyError
        If the speeds are not positive finite numbers, one a rank.
    """

    def __init__(self, layout: EPLayout, speeds: ArrayLike | None = None) -> None:
        self.layout = layout
        self.speeds = _check_speeds(speeds, layout.num_ranks)
        self.uniform = bool((self.speeds == SPEED_ONE).all())
        by_home = np.argsort(layout.home, kind="stable").astype(np.int32)
        start = np.concatenate(([0], np.cumsum(layout.mains_per_rank))).astype(np.int64)
        self._problem = (
            by_home, start, self.speeds, layout.domain, layout.slots_per_rank, layout.home,
        )  # fmt: skip
        self._memory = allocate(layout.num_ranks, layout.num_experts, layout.slots_per_rank)

    def solve(self, loads: NDArray[np.int64], options: MosaicOptions | None = None) -> Solution:
        """Plan replicas and quotas for one layer and micro-batch.

        Parameters
        ----------
        loads : ndarray of int64, shape [experts]
        options : MosaicOptions, optional

        Returns
        -------
        Solution
            Its threshold is that of a rank of speed 1.
        """
        numbers = (options or MosaicOptions()).numbers
        tau, n = _solve(loads, self._problem, numbers, self._memory)
        found = self._solution(tau, n)
        searchable = self.uniform and n > 0
        if searchable and options is not None and options.tight and not options.cross:
            return tighten(loads, self.layout, found)
        return found

    def solve_at(
        self, loads: NDArray[np.int64], tau: int, options: MosaicOptions | None = None
    ) -> Solution | None:
        """Plan at one given threshold, without a search; None where no pass succeeds."""
        numbers = (options or MosaicOptions()).numbers
        n = _solve_at(loads, tau, self._problem, numbers, self._memory)
        return self._solution(tau, n) if n >= 0 else None

    def solve_many(
        self, loads: NDArray[np.int64], options: MosaicOptions | None = None
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int32],
        NDArray[np.int32],
        NDArray[np.int64],
    ]:
        """Plan many records in parallel.

        Parameters
        ----------
        loads : ndarray of int64, shape [records, experts]
        options : MosaicOptions, optional

        Returns
        -------
        tau, count : ndarray of int64, shape [records]
        expert, rank : ndarray of int32, shape [records, ranks x slots]
            The first ``count`` of each row are the replicas.
        quota : ndarray of int64, shape [records, ranks x slots]
        """
        records = loads.shape[0]
        room = self.layout.num_ranks * self.layout.slots_per_rank
        tau, count = np.empty(records, np.int64), np.empty(records, np.int64)
        expert, rank = np.empty((records, room), np.int32), np.empty((records, room), np.int32)
        quota = np.empty((records, room), np.int64)
        numbers = (options or MosaicOptions()).numbers
        parts = min(records, 8 * get_num_threads())
        _solve_many(loads, parts, self._problem, numbers, tau, count, expert, rank, quota)
        return tau, count, expert, rank, quota

    @property
    def one(self) -> int:
        """What a speed of 1.0 is in `speeds`."""
        return SPEED_ONE

    def needed(self, loads: NDArray[np.int64]) -> int:
        """Return the threshold at which nothing has to move."""
        return int(_needed(loads, self._problem, MosaicOptions().numbers, self._memory))

    def _solution(self, tau: int, n: int) -> Solution:
        wide, narrow, _ = self._memory
        expert, rank, quota = narrow[2], narrow[3], wide[10]
        return Solution(tau, expert[:n].copy(), rank[:n].copy(), quota[:n].copy())


def _check_speeds(speeds: ArrayLike | None, ranks: int) -> NDArray[np.int64]:
    if speeds is None:
        return np.full(ranks, SPEED_ONE, np.int64)
    try:
        array = np.asarray(speeds, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (ranks,) or not np.isfinite(array).all() or (array <= 0).any():
        raise PolicyError(
            "speeds must be positive, one a rank",
            place="speeds",
            value=speeds if array.size < 9 else array.shape,
            remedy=f"give {ranks} numbers, 1.0 for a normal rank",
        )
    low, high = float(array.min()), float(array.max())
    if low < MIN_SPEED or high > MAX_SPEED:
        raise PolicyError(
            "a speed is out of range",
            place="speeds",
            value=low if low < MIN_SPEED else high,
            remedy=f"give {MIN_SPEED:g} to {MAX_SPEED:g}, 1.0 for a normal rank",
        )
    return np.rint(array * SPEED_ONE).astype(np.int64)


@njit(cache=True, parallel=True)
def _solve_many(loads, parts, problem, numbers, tau, count, expert, rank, quota):  # type: ignore[no-untyped-def]
    records = loads.shape[0]
    by_home, speeds, slots = problem[0], problem[2], problem[4]
    for part in prange(parts):
        memory = allocate(speeds.shape[0], by_home.shape[0], slots)
        out = views(problem, memory)[3]
        for i in range(part * records // parts, (part + 1) * records // parts):
            tau[i], n = _solve(loads[i], problem, numbers, memory)
            count[i] = n
            for j in range(n):
                expert[i, j] = out[0][j]
                rank[i, j] = out[1][j]
                quota[i, j] = out[2][j]


@njit(cache=True)
def _solve(loads, problem, numbers, memory):  # type: ignore[no-untyped-def]
    work = views(problem, memory)
    slots = problem[4]
    starts, probe_starts, resolution = numbers[3], numbers[4], numbers[5]
    first, mean, high = _rank_loads(loads, problem, numbers, work)
    if high <= first or slots == 0:
        return (first if high <= first else high), 0
    n = probe(loads, first, starts, problem, numbers, work)
    if n >= 0:
        return first, n
    low = first
    tolerance = max(1, mean // resolution)
    while high - low > tolerance:
        width = high - low
        below = low
        for j in range(1, PROBES + 1):
            tau = low + width * j // (PROBES + 1)
            if tau == below:
                continue
            if probe(loads, tau, -1 - probe_starts, problem, numbers, work) >= 0:
                high = tau
                break
            below = tau
        low = below
    n = probe(loads, high, max(starts, probe_starts + 1), problem, numbers, work)
    return high, max(n, 0)  # at the largest load nothing has to move: an empty plan


@njit(cache=True)
def _solve_at(loads, tau, problem, numbers, memory):  # type: ignore[no-untyped-def]
    work = views(problem, memory)
    high = _rank_loads(loads, problem, numbers, work)[2]
    # Orders are made for what is above the first threshold; make them for this one too.
    _sort_experts(loads, tau, problem, work)
    return 0 if high <= tau else probe(loads, tau, numbers[3], problem, numbers, work)


@njit(cache=True)
def _needed(loads, problem, numbers, memory):  # type: ignore[no-untyped-def]
    return _rank_loads(loads, problem, numbers, views(problem, memory))[2]


@njit(cache=True)
def _rank_loads(loads, problem, numbers, work):  # type: ignore[no-untyped-def]
    """Fill rank loads and expert orders; return first threshold, mean, and the largest needed."""
    by_home, start, speeds, domain, _, _ = problem
    rank_load = work[0][0]
    ranks = rank_load.shape[0]
    span = ranks if numbers[2] else domain
    first = 0
    mean = 0
    high = 0
    for begin in range(0, ranks, span):
        end = min(begin + span, ranks)
        total = 0
        speed = 0
        for r in range(begin, end):
            load = 0
            for i in range(start[r], start[r + 1]):
                load += loads[by_home[i]]
            rank_load[r] = load
            total += load
            speed += speeds[r]
            high = max(high, (load * SPEED_ONE + speeds[r] - 1) // speeds[r])
        wanted = (total * numbers[0] + TARGET_SCALE - 1) // TARGET_SCALE
        first = max(first, (wanted * SPEED_ONE + speed - 1) // speed)
        mean = max(mean, total * SPEED_ONE // speed)
    _sort_experts(loads, first, problem, work)
    return first, mean, high


@njit(cache=True)
def _sort_experts(loads, tau, problem, work):  # type: ignore[no-untyped-def]
    """Sort the experts of ranks above their capacity at ``tau``: none below is ever a source."""
    by_home, start, speeds = problem[0], problem[1], problem[2]
    keys, expert_order = work[1], work[2][1]
    for r in range(speeds.shape[0]):
        if work[0][0][r] > capacity(tau, speeds[r]):
            for i in range(start[r], start[r + 1]):
                keys[i] = (-loads[by_home[i]] << 16) | by_home[i]
            keys[start[r] : start[r + 1]].sort()
            for i in range(start[r], start[r + 1]):
                expert_order[i] = keys[i] & 0xFFFF
