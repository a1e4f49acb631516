"""Compare the layer model with the published breakdown: fitted ideal rows, predicted others.

``python -m tests.engine.anchors`` prints the table. Published numbers are only read for comparison.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ultraep_sim.engine.layer import LayerOptions, LayerTimes, layer_times
from ultraep_sim.fabric.streaming import distribute
from ultraep_sim.model import get_model, get_rack
from ultraep_sim.planning.stats import LoadStats
from ultraep_sim.validate import breakdown as breakdown_rows
from ultraep_sim.validate.breakdown import PARTS
from ultraep_sim.validate.tables import FOLDER

from .counts import make_price, make_stats

ANCHORS = Path(__file__).parents[3] / "shared" / "anchors"
# Figure labels of arXiv 2606.04101.
BREAKDOWN = FOLDER / "layer_breakdown.csv"
RANKS, TOKENS = 64, 8192

#: Mean rank imbalance of the published training runs, and copies on the busiest sender.
POLICIES = {"ideal": (1.0, 0), "none": (2.86, 0), "ultraep": (1.03, 4)}

#: Rows the rack of the paper was fitted to; every other row is a prediction.
FITTED = {" ".join(key) for key in breakdown_rows.FITTED}


class Row(NamedTuple):
    """One published figure beside ours, in ms."""

    what: str
    published: float
    ours: float

    @property
    def error(self) -> float:
        return self.ours / self.published - 1


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hot_rank(imbalance: float, copies: int = 0) -> LoadStats:
    """One hot rank at `imbalance` times the mean, the others even; 63/64 of pairs leave."""
    mean = TOKENS * 8
    pairs = np.full(RANKS, mean * (RANKS - imbalance) / (RANKS - 1))
    pairs[0] = imbalance * mean
    remote = np.full(RANKS, mean * (RANKS - 1) // RANKS)
    sent = np.zeros(RANKS, int)
    sent[0] = copies
    received = np.zeros(RANKS, int)
    received[1 : 1 + copies] = 1
    return make_stats(
        pairs=np.rint(pairs),
        tiles=np.repeat(np.ceil(pairs / 2 / 128)[None, :, None], 2, axis=2),
        near_sent=remote,
        near_received=np.rint(pairs * (RANKS - 1) / RANKS),
        copies_sent=sent,
        copies_received=received,
    )


def simulate(policy: str, rack: str = "paper-rack64") -> LayerTimes:
    imbalance, copies = POLICIES[policy]
    price = make_price()
    if copies:
        price = make_price(exchange=11, solve=56, tasks=38, reroute=20, transport="stream")
    return layer_times(
        get_model("qwen3-235b"),
        get_rack(rack),
        hot_rank(imbalance, copies),
        price,
        LayerOptions(TOKENS, sequence_length=8192),
    )


def breakdown(rack: str = "paper-rack64") -> list[Row]:
    """Every row of the published breakdown whose policy we can set up."""
    rows = []
    for line in read(BREAKDOWN):
        key = line["direction"], line["part"]
        if line["policy"] in POLICIES and key in PARTS:
            critical = simulate(line["policy"], rack).critical
            ours = sum(float(critical[p][0]) for p in PARTS[key]) * 1e3
            rows.append(Row(" ".join((*key, line["policy"])), float(line["latency_ms"]), ours))
    return rows


def markdown() -> str:
    """Return the breakdown as the table of docs/accuracy.md."""
    lines = [
        "| direction | part | policy | published [ms] | simulated [ms] | error [%] | kind |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for row in breakdown():
        direction, part, policy = row.what.split()
        kind = "fitted" if row.what in FITTED else "predicted"
        names = f"| {direction} | {part.replace('_', ' ')} | {policy} |"
        lines.append(
            f"{names} {row.published:.2f} | {row.ours:.2f} | {100 * row.error:+.1f} | {kind} |"
        )
    return "\n".join(lines) + "\n\n" + _forward_sums()


def _forward_sums() -> str:
    """Say what the whole forward layer makes of the policies, published and simulated."""
    sums = {
        policy: np.sum(
            [
                (row.published, row.ours)
                for row in breakdown()
                if row.what.startswith("forward") and row.what.endswith(f" {policy}")
            ],
            axis=0,
        )
        for policy in POLICIES
    }
    ideal, gain = sums["ideal"] / sums["ultraep"], sums["none"] / sums["ultraep"]
    return (
        f"Summed over the forward layer, `ultraep` is {gain[0]:.2f}x faster than `none` as "
        f"published and {gain[1]:.2f}x\nas simulated, and reaches {100 * ideal[0]:.0f} % of "
        f"`ideal` as published and {100 * ideal[1]:.0f} % as simulated."
    )


def distribution() -> list[Row]:
    """Direct streaming of the README cases; the busiest sender's copies are the max fan-out."""
    fan_out = {
        row["initial_imbalance"]: int(row["max_fanout"])
        for row in read(ANCHORS / "planner.csv")
        if row["provenance"] == "public README"
    }
    rack, copy = get_rack("paper-rack64"), get_model("qwen3-235b").expert_bytes("bf16")
    rows = []
    for line in read(ANCHORS / "weight_distribution.csv"):
        copies = fan_out.get(line["initial_imbalance"])
        direct = line["transport"] == "direct tile streaming"
        if line["provenance"] == "README" and direct and copies:
            sent = np.array([[copies, 0]])
            ours = distribute(rack, sent, np.array([[0, 2]]), copy).max() * 1e3
            rows.append(Row(f"direct, {copies} copies", float(line["latency_ms"]), float(ours)))
    return rows


def main() -> None:
    """Print the comparisons; weight distribution where its published figures are at hand."""
    tables = [
        ("breakdown, paper-rack64", breakdown()),
        ("breakdown, gb200-nvl72 from public kernel tables", breakdown("gb200-nvl72")),
    ]
    if ANCHORS.is_dir():
        tables.append(("weight distribution", distribution()))
    for title, rows in tables:
        print(title)
        for row in rows:
            print(f"  {row.what:34} {row.published:7.3f} {row.ours:7.3f} ms {row.error:+7.1%}")


if __name__ == "__main__":
    main()
