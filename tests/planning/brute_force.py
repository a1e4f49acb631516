"""Every plan of a tiny case: all sets of replicas, and the least max rank load of each."""

import itertools

import numpy as np


def all_optima(loads, layout):
    """Return {least max rank load of a set of replicas: fewest replicas of a set with it}."""
    pairs = [
        (e, r)
        for e in range(layout.num_experts)
        for r in range(layout.num_ranks)
        if loads[e] > 1
        and r != layout.home[e]
        and layout.domain_of[r] == layout.domain_of[layout.home[e]]
    ]
    out = {}
    room = layout.num_ranks * layout.slots_per_rank
    for n in range(min(room, len(pairs)) + 1):
        for chosen in itertools.combinations(pairs, n):
            used = np.bincount([r for _, r in chosen], minlength=layout.num_ranks)
            if (used <= layout.slots_per_rank).all():
                out.setdefault(least_max_load(loads, layout, chosen), n)
    return out


def least_max_load(loads, layout, chosen):
    """Least max rank load with these replicas, by Hall's condition: no linear program, no flow.

    Tokens that may go to a set of ranks only must fit there: the least tau is the largest, over
    sets of ranks, of the tokens that cannot leave the set, divided by its size.
    """
    ranks = layout.num_ranks
    may = [{int(layout.home[e])} | {r for x, r in chosen if x == e} for e in range(len(loads))]
    best = 0
    for size in range(1, ranks + 1):
        for group in itertools.combinations(range(ranks), size):
            inside = set(group)
            caught = sum(
                int(loads[e])
                if may[e] <= inside
                else int(layout.home[e] in inside and loads[e] > 0)
                for e in range(len(loads))
            )
            best = max(best, -(-caught // size))
    return best
