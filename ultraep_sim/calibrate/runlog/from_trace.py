"""Loads of a log's rows from a routing trace: what each rank had to do, without balancing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ultraep_sim.calibrate.runlog.log import Floats, Log
from ultraep_sim.errors import CalibrationError
from ultraep_sim.planning.layout import EPLayout
from ultraep_sim.trace import Trace


def loads_from_trace(log: Log, trace: Trace, ranks: int) -> Log:
    """Fill in the loads of a log.

    Parameters
    ----------
    log : Log
        Its step, micro-batch and layer are those of the trace. A row of kind ``step`` gets the
        sum over the step's records of the slowest rank's pairs, for that is what a step waits for.
    trace : Trace
    ranks : int
        Of the EP group: mains in the contiguous layout, no replicas.

    Raises
    ------
    CalibrationError
        The log has stages or loads of its own, a rank beyond `ranks`, or a row that no record of
        the trace belongs to.
    """
    if log.unit_name != "rank":
        raise CalibrationError(
            "a trace tells the loads of ranks", place="stage", remedy="give a load column"
        )
    if np.isfinite(log.load).any():
        raise CalibrationError(
            "the log has loads of its own", place="load", remedy="drop the column, or --trace"
        )
    layout = EPLayout(ranks, trace.meta.num_experts, 0)
    home = np.asarray(layout.home)
    found: dict[tuple[int, int, int], Floats] = {}
    whole: dict[int, float] = {}
    for record in trace:
        pairs = np.bincount(home, record.loads.sum(axis=0), ranks).astype(np.float64)
        found[record.step, record.micro_batch, record.layer] = pairs
        whole[record.step] = whole.get(record.step, 0.0) + float(pairs.max())
    load = np.empty(len(log))
    for at in range(len(log)):
        step, unit = int(log.step[at]), int(log.unit[at])
        key = (step, int(log.micro_batch[at]), int(log.layer[at]))
        total = log.kind[at] == "step"
        if unit >= ranks or (step not in whole if total else key not in found):
            raise CalibrationError(
                f"no record of the trace, or no rank of {ranks}", place=f"row {log.row[at]}",
                value={"step, micro_batch, layer": key, "rank": unit},
                remedy="give the trace of this run, and its --ranks",
            )  # fmt: skip
        load[at] = whole[step] if total else found[key][unit]
    return replace(log, load=load, sources=(*log.sources, ("trace", trace.digest)))
