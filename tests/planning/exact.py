"""The exact optimum of max rank load as a mixed-integer program, for small cases."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix


def optimal_max_load(loads, layout):
    """Smallest max rank load any placement with these slots and homes can reach.

    Variables: tokens x[e, r] (integer), replica y[e, r] (binary, r != home), and the bound t.
    The main keeps one token of an expert that has any, as the planner's does.
    """
    experts, ranks = layout.num_experts, layout.num_ranks
    n = experts * ranks
    size = 2 * n + 1
    lower, upper = np.zeros(size), np.full(size, np.inf)
    rows = []

    def add(terms, low, high):
        rows.append((terms, low, high))

    for e in range(experts):
        home = int(layout.home[e])
        for r in range(ranks):
            x, y = e * ranks + r, n + e * ranks + r
            reachable = layout.domain_of[r] == layout.domain_of[home]
            upper[y] = float(r != home and reachable)
            if r == home:
                lower[x] = min(1, loads[e])
            else:
                add({x: 1, y: -float(loads[e])}, -np.inf, 0)
        add({e * ranks + r: 1 for r in range(ranks)}, loads[e], loads[e])
    for r in range(ranks):
        add({n + e * ranks + r: 1 for e in range(experts)}, 0, layout.slots_per_rank)
        add({**{e * ranks + r: 1 for e in range(experts)}, 2 * n: -1}, -np.inf, 0)
    matrix = lil_matrix((len(rows), size))
    for i, (terms, _, _) in enumerate(rows):
        for column, value in terms.items():
            matrix[i, column] = value
    cost = np.zeros(size)
    cost[-1] = 1
    found = milp(
        cost,
        constraints=LinearConstraint(
            matrix.tocsr(), [low for _, low, _ in rows], [high for *_, high in rows]
        ),
        integrality=np.ones(size),
        bounds=Bounds(lower, upper),
        options={"time_limit": 20},
    )
    assert found.status == 0, found.message
    return round(found.fun)
