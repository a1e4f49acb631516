"""Exact optima of a committed set of cases; `make_optima.py` computes them, `read` returns them."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ultraep_sim.planning import EPLayout

TABLE = Path(__file__).parent / "optima.csv"


class Optimum(NamedTuple):
    """One case. A bound below its value is all that was proven in the time limit."""

    name: str
    layout: EPLayout
    loads: np.ndarray  # int64 [experts]
    mean: float  # of the ranks
    max_load: int  # least max rank load found, and the proven bound
    max_load_bound: int
    tau: int  # where the replicas are counted
    replicas: int  # fewest found at tau, and the proven bound
    replicas_bound: int


def read():
    """Return every case of the table."""
    out = []
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ranks, experts, slots, domain = (
                int(row[key]) for key in ("ranks", "experts", "slots", "domain")
            )
            loads = np.array([int(x) for x in row["loads"].split()], np.int64)
            numbers = (int(row[key]) for key in Optimum._fields[4:])
            out.append(
                Optimum(
                    f"{row['kind']}-{ranks}x{experts}x{slots}-d{domain}-{row['seed']}",
                    EPLayout(ranks, experts, slots, domain),
                    loads,
                    loads.sum() / ranks,
                    *numbers,
                )
            )
    return out
