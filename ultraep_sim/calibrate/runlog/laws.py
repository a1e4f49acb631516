"""Laws of a log's rows: fixed time, time per pair, a factor for each rank.

``seconds = factor[rank] x (fixed + load x pair)``. Kinds that all ranks share (layer, step) take
the load of the slowest rank, or, where the experts of every rank were timed as well, what the
slowest rank's experts take, so that the rest is communication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ultraep_sim.calibrate.fit import Columns, Law, Parameter
from ultraep_sim.calibrate.runlog.log import Floats, Ints, Log

Values = Mapping[str, float]

_FIXED = ("fixed_us", 20.0, 0.01, 1e7)
#: A rank may be so many times faster or slower than the median one.
_FACTOR = 10.0
MIN_ROWS_A_RANK = 8


def plain_law(values: Values, columns: Columns) -> Floats:
    """Add a fixed time and a time per pair."""
    return np.asarray(values["fixed_us"] * 1e-6 + columns["load"] * (values["pair_ns"] * 1e-9))


def exposed_law(values: Values, columns: Columns) -> Floats:
    """Add a fixed time, the slowest rank's experts, and exposed communication per pair."""
    fixed = values["fixed_us"] * 1e-6
    return np.asarray(fixed + columns["experts_s"] + columns["load"] * values["exposed_ns"] * 1e-9)


def with_factors(units: Sequence[int], unit_name: str) -> Law:
    """Return `plain_law` times a factor of each rank; column ``unit`` counts in `units`."""
    names = [factor_name(unit_name, unit) for unit in units]

    def law(values: Values, columns: Columns) -> Floats:
        factor = np.array([values[name] for name in names])
        return np.asarray(factor[columns["unit"]] * plain_law(values, columns))

    return law


def factor_name(unit_name: str, unit: int) -> str:
    """Name of the factor of a rank or stage."""
    return f"factor_{unit_name}_{unit}"


def fixed_parameter(seconds: Floats) -> Parameter:
    """Bounds of the fixed time: not longer than the median row."""
    name, start, low, high = _FIXED
    high = min(high, max(float(np.median(seconds)) * 1e6, 2 * low))
    return Parameter(name, "us", min(start, 0.5 * high), low, high)


def factor_parameters(units: Sequence[int], unit_name: str, median_unit: int) -> list[Parameter]:
    """Return a factor of each rank, pinned to 1 for the median one: a gauge needs one."""
    out = []
    for unit in units:
        ends = (1.0, 1.0) if unit == median_unit else (1 / _FACTOR, _FACTOR)
        out.append(Parameter(factor_name(unit_name, unit), "1", 1.0, *ends))
    return out


def effective_load(log: Log) -> Floats:
    """Load that a row waits for: its rank's, or the largest of its group, float64 [N]."""
    load = log.load.copy()
    shared = log.grouped
    if shared.any():
        _, of = np.unique(log.keys(with_unit=False), axis=0, return_inverse=True)
        of = of.ravel()
        largest = np.zeros(int(of.max()) + 1)
        np.maximum.at(largest, of, np.where(np.isfinite(load), load, 0.0))
        load[shared] = largest[of[shared]]
    return load


def row_names(log: Log, at: Ints) -> tuple[str, ...]:
    """Name rows for people, and for the hash that holds some out."""
    out = []
    shared = log.grouped
    for i in at:
        place = f"step {log.step[i]} layer {log.layer[i]} micro-batch {log.micro_batch[i]}"
        who = "" if shared[i] else f" {log.unit_name} {log.unit[i]}"
        out.append(f"{log.kind[i]}: {place}{who}")
    return tuple(out)
