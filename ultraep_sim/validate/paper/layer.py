"""The layer breakdown: milliseconds of every part, direction, model and policy.

Fitted on the published rows of ``ideal``: the rates of GEMM and all-to-all (constants of the rack),
and here one factor a direction on the rest of the layer, for attention alone is a third too short
forward. On ``none`` alone: the overhead of real routing, see `ultraep_sim.validate.uneven.routed`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.layer import LayerOptions, layer_times
from ...model import get_rack
from ..breakdown import MODEL, PARTS, RACK, SEQUENCE, Part
from ..dynamics import TILE_ROWS, PolicyLoads
from ..rows import Row, make_row
from ..tables import Tables, number
from ..training_cases import TOKENS, Case
from ..uneven import routed
from .training import Replayed, source_of

TABLE = "layer_breakdown"
METRIC = "latency_ms"
REST = {"forward": "fwd_attention", "backward": "bwd_attention"}


def rows(
    tables: Tables, read: set[tuple[str, str, str]], found: Sequence[Replayed], inputs: Tables
) -> list[Row]:
    """Return every row: published ones first, then the parts of all runs and policies."""
    simulated = simulate(found, inputs)
    keys = dict.fromkeys(
        (*((r["model"], r["direction"], r["part"], r["policy"]) for r in tables[TABLE]), *simulated)
    )
    assumed = {one.run.case.shape.name: one.run.assumed for one in found}
    out = []
    for key in keys:
        model, direction, part, policy = key
        row = tables.find(TABLE, model=model, direction=direction, part=part, policy=policy)
        published = None if row is None else number(row[METRIC])
        value = simulated.get(key)
        notes = [source_of(row)] if row and published is not None else ["not published"]
        notes += [f"assumed: {assumed[model]}"] if assumed.get(model) else []
        notes += [] if value is not None else ["not simulated: unknown model, part or policy"]
        out.append(
            make_row(
                TABLE, "/".join(key), METRIC, published, value,
                fitted=(TABLE, " | ".join(key), METRIC) in read, provenance="; ".join(notes),
            )
        )  # fmt: skip
    return out


def simulate(found: Sequence[Replayed], inputs: Tables) -> dict[tuple[str, str, str, str], float]:
    """Return milliseconds by model, direction, part and policy."""
    rest = _rest_factors(found, inputs)
    overhead = routed(inputs).si
    out = {}
    for one in found:
        if not one.run.timed:
            continue
        for policy, loads in one.loads.items():
            phases = _phases(one.run.case, loads)
            for part, names in PARTS.items():
                value = sum(phases[name] for name in names)
                if part.name == "others":
                    value += (rest[part.direction] - 1) * phases[REST[part.direction]]
                if part.name == "token_all_to_all" and policy != "ideal":
                    value *= overhead
                out[one.run.case.shape.name, part.direction, part.name, policy] = value
    return out


def _phases(case: Case, loads: PolicyLoads) -> dict[str, float]:
    """Return mean milliseconds of the phases on the critical path."""
    options = LayerOptions(TOKENS, sequence_length=SEQUENCE, tile_rows=TILE_ROWS)
    times = layer_times(case.shape, get_rack(RACK), loads.stats, loads.price, options)
    return {name: float(seconds.mean()) * 1e3 for name, seconds in times.critical.items()}


def _rest_factors(found: Sequence[Replayed], inputs: Tables) -> dict[str, float]:
    """Return published over simulated rest of the layer of ``ideal``, by direction."""
    one = next((one for one in found if one.run.case.shape.name == MODEL), None)
    factors = dict.fromkeys(REST, 1.0)
    if one is None:
        return factors
    phases = _phases(one.run.case, one.loads["ideal"])
    for direction in REST:
        row = inputs.find(TABLE, model=MODEL, direction=direction, part="others", policy="ideal")
        published = None if row is None else number(row[METRIC])
        if published is not None:
            names = PARTS[Part(direction, "others")]
            factors[direction] = published / sum(phases[name] for name in names)
    return factors
