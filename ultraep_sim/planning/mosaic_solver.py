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
from .chain import chain
from .layout import EPLayout
from .mosaic import collect, fit, shuffle
from .quota import DYNAMIC_FLOOR, NO_FLOOR, QuotaOptions, Solution, greedy_oracle, order_by_load
from .tighten import tighten

Effort = Literal["fast", "thorough"]

SPEED_ONE = 1 << 16
PROBES = 7
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
        if self.tile_rows < 1:
            raise PolicyError(
                "not a positive whole number", place="tile_rows", value=self.tile_rows
            )

    @property
    def tight(self) -> bool:
        """Whether the best possible balance is asked for, whatever it takes to find."""
        return self.effort == "thorough" and QuotaOptions(self.target).target_scaled == 10_000

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
        self._uniform = bool((self.speeds == SPEED_ONE).all())
        by_home = np.argsort(layout.home, kind="stable").astype(np.int32)
        start = np.concatenate(([0], np.cumsum(layout.mains_per_rank))).astype(np.int64)
        self._problem = (
            by_home, start, self.speeds, layout.domain, layout.slots_per_rank, layout.home,
        )  # fmt: skip
        self._memory = _memory(layout.num_ranks, layout.num_experts, layout.slots_per_rank)

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
        searchable = self._uniform and n > 0
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
    array = np.asarray(speeds, np.float64)
    if array.shape != (ranks,) or not np.isfinite(array).all() or (array <= 0).any():
        raise PolicyError(
            "speeds must be positive, one a rank",
            place="speeds",
            value=array.tolist() if array.size < 9 else array.shape,
            remedy=f"give {ranks} numbers, 1.0 for a normal rank",
        )
    scaled = np.maximum(np.rint(array * SPEED_ONE), 1).astype(np.int64)
    if int(scaled.max()) > 16 * SPEED_ONE:
        raise PolicyError("a speed above 16", place="speeds", value=float(array.max()))
    return scaled


@njit(cache=True)
def _memory(ranks, experts, slots):  # type: ignore[no-untyped-def]
    """Allocate all that solving one record needs, in few arrays: each costs a call its share."""
    width = max(ranks, experts, ranks * slots)
    held = np.empty((ranks, max(slots, 1)), np.int64)
    return np.zeros((13, width), np.int64), np.zeros((6, width), np.int32), held


@njit(cache=True)
def _views(problem, memory):  # type: ignore[no-untyped-def]
    """Name the parts of the memory."""
    wide, narrow, held = memory
    experts, ranks = problem[0].shape[0], problem[2].shape[0]
    # rank loads, capacities, excesses, free slots, sinks, sources, shifted or held loads, slack,
    # stamps of the greedy oracle
    rows = wide[:9, :ranks]
    per_rank = (rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], rows[8])
    orders = (narrow[0, :ranks], narrow[1, :experts])
    out = (narrow[2], narrow[3], wide[10])
    trial = (narrow[4], narrow[5], wide[11])
    return per_rank, wide[9], orders, out, trial, wide[12, :experts], held


@njit(cache=True, parallel=True)
def _solve_many(loads, parts, problem, numbers, tau, count, expert, rank, quota):  # type: ignore[no-untyped-def]
    records = loads.shape[0]
    by_home, speeds, slots = problem[0], problem[2], problem[4]
    for part in prange(parts):
        memory = _memory(speeds.shape[0], by_home.shape[0], slots)
        out = _views(problem, memory)[3]
        for i in range(part * records // parts, (part + 1) * records // parts):
            tau[i], n = _solve(loads[i], problem, numbers, memory)
            count[i] = n
            for j in range(n):
                expert[i, j] = out[0][j]
                rank[i, j] = out[1][j]
                quota[i, j] = out[2][j]


@njit(cache=True)
def _solve(loads, problem, numbers, memory):  # type: ignore[no-untyped-def]
    work = _views(problem, memory)
    slots = problem[4]
    starts, probe_starts, resolution = numbers[3], numbers[4], numbers[5]
    first, mean, high = _rank_loads(loads, problem, numbers, work)
    if high <= first or slots == 0:
        return (first if high <= first else high), 0
    n = _probe(loads, first, starts, problem, numbers, work)
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
            if _probe(loads, tau, -1 - probe_starts, problem, numbers, work) >= 0:
                high = tau
                break
            below = tau
        low = below
    n = _probe(loads, high, max(starts, probe_starts + 1), problem, numbers, work)
    return high, max(n, 0)  # at the largest load nothing has to move: an empty plan


@njit(cache=True)
def _solve_at(loads, tau, problem, numbers, memory):  # type: ignore[no-untyped-def]
    work = _views(problem, memory)
    high = _rank_loads(loads, problem, numbers, work)[2]
    # Orders are made for what is above the first threshold; make them for this one too.
    _sort_experts(loads, tau, problem, work)
    return 0 if high <= tau else _probe(loads, tau, numbers[3], problem, numbers, work)


@njit(cache=True)
def _needed(loads, problem, numbers, memory):  # type: ignore[no-untyped-def]
    return _rank_loads(loads, problem, numbers, _views(problem, memory))[2]


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
        wanted = (total * numbers[0] + 9_999) // 10_000
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
        if work[0][0][r] > tau * speeds[r] >> 16:
            for i in range(start[r], start[r + 1]):
                keys[i] = (-loads[by_home[i]] << 16) | by_home[i]
            keys[start[r] : start[r + 1]].sort()
            for i in range(start[r], start[r + 1]):
                expert_order[i] = keys[i] & 0xFFFF


@njit(cache=True)
def _set_caps(tau, speeds, cap):  # type: ignore[no-untyped-def]
    for r in range(cap.shape[0]):
        cap[r] = tau * speeds[r] >> 16


@njit(cache=True)
def _probe(loads, tau, starts, problem, numbers, work):  # type: ignore[no-untyped-def]
    """Bring every rank to its capacity at ``tau``; return the number of transfers, or -1.

    With ``starts`` below zero the first success will do: the plan is not kept.
    """
    speeds, domain = problem[2], problem[3]
    rank_load, cap = work[0][0], work[0][1]
    _set_caps(tau, speeds, cap)
    ranks = rank_load.shape[0]
    if numbers[2] and domain < ranks:
        return _cross(loads, problem, work)
    count = 0
    for begin in range(0, ranks, domain):
        end = min(begin + domain, ranks)
        covered = _best_of(loads, begin, end, starts, numbers[1], problem, work, count)
        if covered < 0:
            covered = _chained(loads, begin, end, abs(starts), problem, work, count)
        if covered < 0:
            return _greedy(loads, tau, problem, work)
        count = covered
    return count


@njit(cache=True)
def _best_of(loads, begin, end, starts, tile, problem, work, count):  # type: ignore[no-untyped-def]
    """Cover one domain in several orders, plain and in whole tiles; append the best to ``out``."""
    out, trial = work[3], work[4]
    best = -1
    most_sent = 0
    widest = 0
    in_tiles = False
    state = 1
    for k in range(abs(starts) + 1):
        for step in (1, tile):
            n, state = _pass(loads, begin, end, k > 0, state, step, problem, work)
            if n < 0:
                continue
            sent, fanout = _spread(trial, n, problem[5])
            better = best < 0 or n < best or (n == best and step > 1 and not in_tiles)
            if best >= 0 and (sent > most_sent or fanout > widest):
                better = False
            if better:
                if best < 0:
                    most_sent, widest = sent, fanout
                best = n
                in_tiles = step > 1
                for i in range(n):
                    out[0][count + i] = trial[0][i]
                    out[1][count + i] = trial[1][i]
                    out[2][count + i] = trial[2][i]
            if tile == 1:
                break  # there is only one kind of pass
        if best >= 0 and starts < 0:
            break
    return count + best if best >= 0 else -1


@njit(cache=True)
def _pass(loads, begin, end, shuffled, state, tile, problem, work):  # type: ignore[no-untyped-def]
    """Make one pass over a domain into the trial buffer; return its transfers or -1, and state."""
    start, slots = problem[1], problem[4]
    rank_load, cap, excess, free, sinks, sources = work[0][:6]
    n, m = collect(rank_load, cap, begin, end, slots, tile, sinks, sources)
    if shuffled:
        state = shuffle(sources, m, rank_load, cap, state)
    for r in range(begin, end):
        excess[r] = max(rank_load[r] - cap[r], 0)
        free[r] = slots
    _, count, left = fit(
        loads, start, work[2][1], tile, sources, m, excess, sinks, n, free, work[4], 0
    )
    return (count if left == 0 else -1), state


@njit(cache=True)
def _spread(trial, count, home):  # type: ignore[no-untyped-def]
    """Return the most transfers of one home rank and of one expert; both come in runs."""
    most_sent = 0
    widest = 0
    sent = 0
    fanout = 0
    for i in range(count):
        expert = trial[0][i]
        same_expert = i > 0 and trial[0][i - 1] == expert
        same_home = i > 0 and home[trial[0][i - 1]] == home[expert]
        fanout = fanout + 1 if same_expert else 1
        sent = sent + 1 if same_home else 1
        most_sent = max(most_sent, sent)
        widest = max(widest, fanout)
    return most_sent, widest


@njit(cache=True)
def _chained(loads, begin, end, starts, problem, work, count):  # type: ignore[no-untyped-def]
    """Cover one domain by `chain`, with a few seeds; append to ``out``."""
    by_home, start, slots = problem[0], problem[1], problem[4]
    rank_load, cap, _, free, _, _, load, _, _ = work[0]
    for seed in range(starts + 1):
        n = chain(
            loads, start, by_home, begin, end, slots, rank_load, cap, seed * 7919,
            work[6], work[5], free, load, work[3], count,
        )  # fmt: skip
        if n >= 0:
            return n
    return -1


@njit(cache=True)
def _greedy(loads, tau, problem, work):  # type: ignore[no-untyped-def]
    """Ask the published oracle, with loads shifted so that every capacity is ``tau``."""
    by_home, start, _, domain, slots, _ = problem
    rank_load, cap, _, free, _, _, shifted, slack, stamp = work[0]
    for r in range(shifted.shape[0]):
        shifted[r] = rank_load[r] - cap[r] + tau
    stamp[:] = 0
    rank_order, expert_order = work[2]
    hot = order_by_load(loads, by_home, start, shifted, tau, work[1], rank_order, expert_order)
    state = (shifted, slack, free, stamp, rank_order, expert_order)
    for mode in (DYNAMIC_FLOOR, NO_FLOOR):
        n = greedy_oracle(tau, mode, 0, (loads, start, domain, slots, hot), state, work[3])
        if n >= 0:
            return n
    return -1


@njit(cache=True)
def _cross(loads, problem, work):  # type: ignore[no-untyped-def]
    """Cover every domain as far as it goes, then what is left from the sinks of all others."""
    _, start, _, domain, slots, _ = problem
    rank_load, cap, excess, free, sinks, sources, held, _, _ = work[0]
    out, left_on_main = work[3], work[5]
    ranks = rank_load.shape[0]
    for r in range(ranks):
        excess[r] = max(rank_load[r] - cap[r], 0)
        free[r] = slots
        held[r] = rank_load[r]
    left_on_main[:] = loads
    count = 0
    for crossing in (False, True):
        left = 0
        for begin in range(0, ranks, domain):
            end = min(begin + domain, ranks)
            n, m = _members(begin, end, crossing, held, cap, excess, free, sinks, sources)
            before = count
            _, count, missing = fit(
                left_on_main, start, work[2][1], 1, sources, m, excess, sinks, n, free, out, count
            )
            left += missing
            for i in range(before, count):
                held[out[1][i]] += out[2][i]
                left_on_main[out[0][i]] -= out[2][i]
        if left == 0:
            return count
    return -1


@njit(cache=True)
def _members(begin, end, crossing, held, cap, excess, free, sinks, sources):  # type: ignore[no-untyped-def]
    """List what a domain still has to shed, and the sinks inside it, or all those outside."""
    n = 0
    m = 0
    for r in range(held.shape[0]):
        inside = begin <= r < end
        if inside and excess[r] > 0:
            sources[m] = (-excess[r] << 16) | r
            m += 1
        elif inside != crossing and held[r] < cap[r] and free[r] > 0:
            sinks[n] = ((cap[r] - held[r]) << 16) | r
            n += 1
    sinks[:n].sort()
    sources[:m].sort()
    return n, m
