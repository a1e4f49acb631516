"""Compute optima.csv: python -m tests.planning.optima.make_optima (about ten minutes).

For every case the least max rank load, and the fewest replicas at tau = the larger of that
optimum and the first threshold of the published planner at its default target (1.01 x the mean of
the most loaded scale-up domain). The loads stand in the table, so it does not depend on the
version of the random generator.
"""

import csv
import sys
import zlib

import numpy as np

from tests.planning.optima import TABLE, Optimum
from ultraep_sim.planning import EPLayout
from ultraep_sim.planning.exact import minimum_max_load, minimum_replicas

TOKENS_PER_RANK = 4096
TIME_LIMIT_S = (20.0, 8.0)

# kind: [(ranks, experts, slots, domain, cases)]
CASES = {
    # Experts of very different size anywhere: a perfect balance nearly always exists.
    "skew": [(4, 8, 1, 4, 15), (6, 24, 1, 6, 15), (8, 32, 2, 8, 15), (12, 36, 1, 12, 8)],
    # Hot ranks with experts of like size: slots receive too little, so the optimum is above.
    "hot_ranks": [
        (6, 24, 1, 6, 15), (6, 48, 1, 6, 20), (8, 32, 1, 8, 20), (8, 48, 1, 8, 20),
        (8, 64, 1, 8, 30), (8, 64, 2, 8, 12), (8, 16, 1, 4, 12),
    ],
    # Most experts nearly idle.
    "few": [(6, 24, 1, 6, 10), (8, 64, 1, 8, 8), (8, 16, 1, 4, 10)],
}  # fmt: skip


def draw(kind, ranks, experts, seed):
    rng = np.random.default_rng([seed, ranks, experts, zlib.crc32(kind.encode())])
    if kind == "hot_ranks":
        inner = rng.dirichlet(np.full(experts // ranks, 8.0), size=ranks)
        share = (rng.dirichlet(np.full(ranks, 0.4))[:, None] * inner).ravel()
    elif kind == "few":
        share = rng.dirichlet(np.full(experts, 0.5))
        share = np.where(rng.random(experts) < 0.3, share, 1e-4)
    else:
        share = rng.dirichlet(np.full(experts, 0.3))
    return rng.multinomial(TOKENS_PER_RANK * ranks, share / share.sum()).astype(np.int64)


def solve(layout, loads):
    """Return the numbers of a row, from ``max_load`` on."""
    best = minimum_max_load(loads, layout, time_limit_s=TIME_LIMIT_S[0])
    by_home = np.bincount(layout.home, loads, minlength=layout.num_ranks)
    starts = range(0, layout.num_ranks, layout.domain)
    mean = max(by_home[a : a + layout.domain].mean() for a in starts)
    tau = max(best.value, int(np.ceil(1.01 * mean)))
    fewest = minimum_replicas(loads, layout, tau, time_limit_s=TIME_LIMIT_S[1])
    return best.value, best.bound, tau, fewest.value, fewest.bound


def main():
    keys = ("kind", "ranks", "experts", "slots", "domain", "seed", *Optimum._fields[4:], "loads")
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(keys)
        for kind, shapes in CASES.items():
            for *shape, cases in shapes:
                layout = EPLayout(*shape)
                for seed in range(cases):
                    loads = draw(kind, shape[0], shape[1], seed)
                    numbers = solve(layout, loads)
                    writer.writerow((kind, *shape, seed, *numbers, " ".join(map(str, loads))))
                    file.flush()
                    sys.stderr.write(f"{kind} {shape} {seed}: {numbers}\n")


if __name__ == "__main__":
    main()
