"""Chained covering: a source may give more than its excess and be filled in turn.

Where slots are scarce a sink that is filled only in part wastes its slot. As in the alias method
(Walker 1977) a sink's last slot is then filled completely, even if that takes the source below
the threshold: the source is a sink from then on and its own slots are filled by others. With one
slot a rank this balances almost anything, as long as single experts are large enough.

The waste a threshold allows, sum of capacities less total load, is a budget: a last slot may stay
partly empty while the budget lasts.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True)
def chain(  # type: ignore[no-untyped-def]
    loads,
    start,
    by_home,
    begin,
    end,
    slots,
    rank_load,
    cap,
    luck,
    held,
    left,
    free,
    load,
    out,
    count,
):
    """Bring ranks [begin, end) to their capacities; return transfers in ``out``, or -1.

    ``luck`` above zero seeds a generator that now and then takes the second-best choice.
    ``held`` [ranks x slots], ``left`` [experts], ``free`` and ``load`` [ranks] are workspace.
    """
    budget = 0
    for r in range(begin, end):
        load[r] = rank_load[r]
        free[r] = slots
        budget += cap[r] - rank_load[r]
        for i in range(start[r], start[r + 1]):
            left[by_home[i]] = max(loads[by_home[i]] - 1, 0)
    if budget < 0:
        return -1
    while True:
        source = _hottest(load, cap, begin, end)
        if source < 0:
            return count
        luck = (luck * 1103515245 + 12345) & 0x7FFFFFFF if luck else 0
        expert = _largest(left, by_home, start[source], start[source + 1], luck >> 14)
        if expert < 0:
            return -1
        need = load[source] - cap[source]
        sink = _choose(
            expert, left[expert], need, budget, begin, end, slots, held, free, load, cap, luck >> 18
        )
        if sink < 0:
            left[expert] = 0  # nobody can take it; try the next
            continue
        slack = cap[sink] - load[sink]
        quota = min(need, slack, left[expert])
        if free[sink] == 1 and slack > quota:
            waste = slack - quota
            if waste <= budget:
                budget -= waste
            else:
                quota = min(slack, left[expert])
                budget -= slack - quota
                if budget < 0:
                    return -1
        out[0][count] = expert
        out[1][count] = sink
        out[2][count] = quota
        count += 1
        held[sink, slots - free[sink]] = expert
        free[sink] -= 1
        left[expert] -= quota
        load[source] -= quota
        load[sink] += quota


@njit(cache=True)
def _hottest(load, cap, begin, end):  # type: ignore[no-untyped-def]
    best = -1
    excess = 0
    for r in range(begin, end):
        if load[r] - cap[r] > excess:
            excess = load[r] - cap[r]
            best = r
    return best


@njit(cache=True)
def _largest(left, by_home, first, last, luck):  # type: ignore[no-untyped-def]
    """Return the expert with most tokens left on its main; sometimes the second."""
    best = -1
    second = -1
    for i in range(first, last):
        e = by_home[i]
        if left[e] <= 0:
            continue
        if best < 0 or left[e] > left[best]:
            second = best
            best = e
        elif second < 0 or left[e] > left[second]:
            second = e
    return second if second >= 0 and luck & 7 == 1 else best


@njit(cache=True)
def _choose(  # type: ignore[no-untyped-def]
    expert, available, need, budget, begin, end, slots, held, free, load, cap, luck
):
    """Choose the sink for an expert, or -1.

    First the smallest that covers the need without more waste than the budget bears (a last slot
    counts its whole rest as waste); else the largest that the expert fills completely; else the
    smallest that is left, which wastes least.
    """
    cover = -1
    filled = -1
    rest = -1
    for r in range(begin, end):
        slack = cap[r] - load[r]
        if slack <= 0 or free[r] == 0:
            continue
        taken = False
        for j in range(slots - free[r]):
            taken |= held[r, j] == expert
        if taken or (luck & 3 == 1 and (r * 7 + luck >> 2) & 3 == 0):
            continue
        waste = slack - need if free[r] == 1 else 0
        if slack >= need and available >= need and waste <= budget:
            if cover < 0 or slack < cap[cover] - load[cover]:
                cover = r
        elif slack <= available:
            if filled < 0 or slack > cap[filled] - load[filled]:
                filled = r
        elif rest < 0 or slack < cap[rest] - load[rest]:
            rest = r
    if cover >= 0:
        return cover
    return filled if filled >= 0 else rest
