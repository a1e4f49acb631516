"""The split over given instances as a linear program in HiGHS, written for itself."""

import numpy as np
from scipy.optimize import linprog


def optimal_split(loads, offsets, rank, num_ranks):
    """Smallest max rank load over fractional quotas of the given instances."""
    instances = len(rank)
    cost = np.zeros(instances + 1)
    cost[-1] = 1  # the bound t
    rank_rows = np.zeros((num_ranks, instances + 1))
    rank_rows[rank, np.arange(instances)] = 1
    rank_rows[:, -1] = -1
    expert_rows = np.zeros((len(loads), instances + 1))
    for e in range(len(loads)):
        expert_rows[e, offsets[e] : offsets[e + 1]] = 1
    found = linprog(
        cost, A_ub=rank_rows, b_ub=np.zeros(num_ranks), A_eq=expert_rows, b_eq=loads, method="highs"
    )
    assert found.status == 0, found.message
    return found.fun
