"""The published layer breakdown beside the time of a layer under a synthetic trace.

One MoE layer of Qwen3-235B in training at EP64. The rack ``paper-rack64`` is fitted to four rows of
``ideal``; every other row is a prediction. Rows of policies that the file has forward only are
predicted backward as well, with nothing published beside them. Columns, weakest first:

- plain: the ideal row times the published mean imbalance (compute, all-to-all), or the ideal row
  as it is (others);
- simulated: a synthetic trace with the published imbalance under ``none`` and the load dynamics
  fitted in `ultraep_sim.validate.dynamics`, planned and priced policy by policy;
- uneven: the same with what the published *forward* rows cost beyond their imbalance. Fitted to
  those, so it stands only where it predicts: backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..engine.layer import LayerOptions, layer_times
from ..model import get_rack
from ..model.provenance import Quantity
from .dynamics import TILE_ROWS, PolicyLoads, fit, loads_of, stored
from .tables import load_tables, number
from .training_cases import TOKENS, Case, cases
from .uneven import published

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]

MODEL, RACK, SEQUENCE = "qwen3-235b", "paper-rack64", 8192


class Part(NamedTuple):
    """A bar of the published figure."""

    direction: str
    name: str


#: Which phases on the critical path make up a published bar.
PARTS: dict[Part, tuple[str, ...]] = {
    Part("forward", "moe_compute"): ("fwd_compute",),
    Part("forward", "token_all_to_all"): ("fwd_dispatch", "fwd_combine"),
    Part("forward", "others"): ("fwd_attention", "fwd_plan", "fwd_distribute", "fwd_reroute"),
    Part("backward", "moe_compute"): ("bwd_compute",),
    Part("backward", "token_all_to_all"): ("bwd_combine", "bwd_dispatch"),
    Part("backward", "others"): ("bwd_attention", "bwd_distribute", "bwd_grad_reduce"),
}

#: Rows the rack of the paper was fitted to.
FITTED = {
    (direction, name, "ideal")
    for direction in ("forward", "backward")
    for name in ("moe_compute", "token_all_to_all")
}


def run(progress: Progress | None = None) -> list[Row]:
    """Compute every row.

    Parameters
    ----------
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    list of dict
        ``direction``, ``part``, ``policy``, ``kind`` (fitted or predicted), ``published``,
        ``plain``, ``simulated``, ``uneven`` in ms (None where there is none), and
        ``<column>_error``: over published, less one.
    """
    case = next(one for one in cases() if one.shape.name == MODEL)
    dynamics = stored().get(MODEL) or fit(case)
    loads = loads_of(case, dynamics, tuple(case.published))
    if progress is not None:
        progress("replaying loads", 1, 1)
    return rows_of(case, loads)


def rows_of(case: Case, loads: Mapping[str, PolicyLoads]) -> list[Row]:
    """Compute every row of loads that are replayed already, see `run`."""
    known = {
        (row["direction"], row["part"], row["policy"]): number(row["latency_ms"])
        for row in load_tables()["layer_breakdown"]
        if row["model"] == MODEL
    }
    policies = [p for p in dict.fromkeys(key[2] for key in known) if p in loads]
    bars = {policy: _bars(case, loads[policy]) for policy in policies}
    rows = []
    for part in PARTS:
        for policy in policies:
            measured = case.published[policy].imbalance
            row: Row = {
                "direction": part.direction,
                "part": part.name,
                "policy": policy,
                "kind": "fitted" if (*part, policy) in FITTED else "predicted",
                "published": known.get((*part, policy)),
                "imbalance": loads[policy].imbalance,
                "plain": _plain(part, bars["ideal"][part], measured),
                "simulated": bars[policy][part],
                "uneven": _uneven(part, policy, bars[policy][part]),
            }
            rows.append(row | _errors(row))
    return rows


def _bars(case: Case, loads: PolicyLoads) -> dict[Part, float]:
    """Return mean milliseconds by part."""
    options = LayerOptions(TOKENS, sequence_length=SEQUENCE, tile_rows=TILE_ROWS)
    times = layer_times(case.shape, get_rack(RACK), loads.stats, loads.price, options)
    mean = {name: float(seconds.mean()) * 1e3 for name, seconds in times.critical.items()}
    return {part: sum(mean[name] for name in names) for part, names in PARTS.items()}


def _plain(part: Part, ideal_ms: float, imbalance: float | None) -> float | None:
    if part.name == "others":
        return ideal_ms
    return None if imbalance is None else ideal_ms * imbalance


def _uneven(part: Part, policy: str, simulated_ms: float) -> float | None:
    if part.direction == "forward" or policy == "ideal" or part.name == "others":
        return None
    return simulated_ms * _factor(part).si


def _factor(part: Part) -> Quantity:
    factors = published()
    return factors.compute if part.name == "moe_compute" else factors.all_to_all


def _errors(row: Row) -> Row:
    measured = row["published"]
    return {
        f"{name}_error": None if row[name] is None or measured is None else row[name] / measured - 1
        for name in ("plain", "simulated", "uneven")
    }
