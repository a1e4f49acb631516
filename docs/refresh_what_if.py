"""Run the sweeps of scenarios/what-if/ and write docs/what-if.md's tables, pictures and answers.

Every picture has its rows beside it (docs/what-if/NAME.csv); the page is made of those rows alone.
`tests/sweep/test_what_if.py` runs points of every sweep again and compares.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ultraep_sim.report.pages import replaced
from ultraep_sim.report.plot_sweep import draw
from ultraep_sim.sweep import SweepSpec, load_sweep, run_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "what-if.md"
FOLDER = ROOT / "docs" / "what-if"
SWEEPS = ROOT / "scenarios" / "what-if"

#: Columns kept beside the axes: enough for every picture and answer.
COLUMNS = (
    "mean_rank_imbalance",
    "layer_time_ms",
    "iteration_ms",
    "tflops_per_gpu",
    "fraction_of_ideal",
    "speedup_over_none",
)

Row = dict[str, Any]


class Rows:
    """Rows of one sweep, found by what their columns say."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def get(self, column: str, **where: Any) -> float:
        """Return one number of the only row where the columns (``_`` for a space) are so."""
        wanted = {key.replace("__", ".").replace("_", " "): str(v) for key, v in where.items()}
        (row,) = (r for r in self.rows if all(str(r.get(k)) == v for k, v in wanted.items()))
        return float(row[column])

    def slower(self, **where: Any) -> float:
        """Return the time over forced balance, less one."""
        return 1 / self.get("fraction_of_ideal", **where) - 1


def _pipeline(rows: Rows) -> str:
    at = {"mean_imbalance": 1.3}
    even = {"load": "alike in all layers", **at}
    hot = {"load": "all in one layer of eight", **at}
    law = rows.slower(stages=1, **even)
    deep = rows.slower(stages=8, **hot)
    drifting = rows.slower(stages=8, load="drifting, layer by layer", **at)
    return (
        f"When the imbalance sits in one stage: a mean of 1.3 costs {law:.0%} by the linear law "
        f"(one stage), about as much in eight stages if all layers are alike "
        f"({rows.slower(stages=8, **even):.0%}) or drift apart a little ({drifting:.0%}), but "
        f"{deep:.0%} in eight stages if one layer of eight carries all of it."
    )


def _slots(rows: Rows) -> str:
    two = {p: rows.get("fraction_of_ideal", policy=p, slots=2) for p in ("ultraep", "mosaic")}
    one = rows.get("fraction_of_ideal", policy="mosaic", slots=1)
    plus = {n: rows.get("fraction_of_ideal", policy="eplb_plus", slots=n) for n in (1, 8)}
    eplb = {n: rows.get("fraction_of_ideal", policy="eplb", slots=n) for n in (2, 8)}
    return (
        f"One or two: exact planning reaches {two['ultraep']:.0%} of forced balance with two "
        f"(`ultraep`), {one:.0%} with one (`mosaic`), and more change nothing; `eplb` gains with "
        f"every slot ({eplb[2]:.0%} with two, {eplb[8]:.0%} with eight), and `eplb_plus`, which "
        f"fills all it is given every micro-batch, loses ({plus[1]:.0%} with one, {plus[8]:.0%} "
        "with eight)."
    )


def _domain(rows: Rows) -> str:
    time = {n: rows.get("layer_time_ms", policy="ultraep", domain=n) for n in (8, 36, 72)}
    left = {n: rows.get("mean_rank_imbalance", policy="ultraep", domain=n) for n in (8, 72)}
    return (
        f"As large as the group: with domains of 8 a layer takes {time[8] / time[72]:.1f}x as long "
        f"as with one of 72, with two of 36 still {time[36] / time[72]:.1f}x, because tokens cross "
        f"the NICs; that replicas must stay inside costs less (imbalance {left[8]:.2f} instead of "
        f"{left[72]:.2f})."
    )


def _link(rows: Rows) -> str:
    gain = {
        (i, x): rows.get("speedup_over_none", policy="ultraep", link=x, imbalance=i)
        for i in (1.1, 1.3, 2.86)
        for x in (0.25, 2)
    }
    eplb = rows.get("speedup_over_none", policy="eplb", link=1, imbalance=1.1)
    mine = rows.get("speedup_over_none", policy="ultraep", link=1, imbalance=1.1)
    return (
        f"Nowhere in 0.25x to 2x: tokens cross the same links as weights, so the slower the link "
        f"the more balance is worth ({gain[2.86, 0.25]:.2f}x over none at a quarter, "
        f"{gain[2.86, 2]:.2f}x at double, imbalance 2.86; {gain[1.3, 0.25]:.2f}x and "
        f"{gain[1.3, 2]:.2f}x at 1.3). What ends its advantage is little to balance: at 1.1 EPLB, "
        f"which sends no weights, is as fast ({eplb:.3f}x against {mine:.3f}x)."
    )


def _slow(rows: Rows) -> str:
    def time(policy: str, slow: float) -> float:
        return rows.get("iteration_ms", policy=policy, slow=slow)

    loss = {p: time(p, 1.1) / time(p, 1.0) - 1 for p in ("token balancing", "balancing by speed")}
    worst = {p: time(p, 1.5) / time(p, 1.0) - 1 for p in ("token balancing", "balancing by speed")}
    return (
        f"10 % on one GPU of 64 costs all of them {loss['token balancing']:.1%} under token "
        f"balancing and {loss['balancing by speed']:.1%} when it is given fewer tokens; at 50 % "
        f"{worst['token balancing']:.0%} and {worst['balancing by speed']:.0%}. What remains is "
        "attention, which no expert placement moves."
    )


def _plane(rows: Rows) -> str:
    def loss(policy: str, planes: int) -> float:
        whole = rows.get("tflops_per_gpu", policy=policy, planes_lost=0)
        return 1 - rows.get("tflops_per_gpu", policy=policy, planes_lost=planes) / whole

    gain = {n: rows.get("speedup_over_none", policy="ultraep", planes_lost=n) for n in (0, 9)}
    return (
        f"One plane of 18 costs {loss('ultraep', 1):.1%} of throughput, nine cost "
        f"{loss('ultraep', 9):.0%}; balancing is worth a little more on the wounded fabric "
        f"({gain[9]:.3f}x over none instead of {gain[0]:.3f}x)."
    )


ANSWERS: dict[str, Callable[[Rows], str]] = {
    "pipeline-depth": _pipeline,
    "slots": _slots,
    "domain-size": _domain,
    "link-bandwidth": _link,
    "slow-gpu": _slow,
    "dead-plane": _plane,
}

#: Axes named by a path of the scenario, as the answers call them.
_SHORT = {"ep.pipeline_stages": "stages", "ep.slots_per_rank": "slots", "ep.domain_size": "domain"}


def kept(spec: SweepSpec, rows: Sequence[Row]) -> list[Row]:
    """Return axes, policy and the columns that are told, rounded to six digits.

    Of memory only where it is not enough.
    """
    memory = () if all(row["fits"] for row in rows) else ("fits", "memory_GB")
    names = [*spec.columns, "policy", *COLUMNS, *memory]
    return [{n: _rounded(row[n]) for n in names if n in row} for row in rows]


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def stored(name: str) -> list[Row]:
    """Read the rows beside a picture."""
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def block(name: str) -> str:
    """Return what the page says of one sweep, from its stored rows."""
    spec = load_sweep(SWEEPS / f"{name}.yaml")
    rows = [{_SHORT.get(key, key): value for key, value in row.items()} for row in stored(name)]
    return (
        f"**{spec.question}** {ANSWERS[name](Rows(rows))}\n\n"
        f"![{spec.question}](what-if/{name}.png)\n\n"
        f"`ultraep-sim sweep scenarios/what-if/{name}.yaml`; rows: [{name}.csv](what-if/{name}.csv)"
    )


def run(name: str) -> None:
    """Run one sweep and write its rows and picture."""
    spec = load_sweep(SWEEPS / f"{name}.yaml")
    result = run_sweep(spec)
    assert not result.failures, result.failures  # noqa: S101  # half a page would mislead
    rows = result.rows
    table = kept(spec, rows)
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    assert spec.plot is not None, name  # noqa: S101  # every sweep of the page has one
    for file in draw(rows, spec.plot, FOLDER / name):
        if file.suffix == ".svg":
            file.unlink()


def main(names: Sequence[str]) -> None:
    """Run the sweeps named, or all, and write the page."""
    for name in names or ANSWERS:
        run(name)
    text = PAGE.read_text(encoding="utf-8")
    for name in ANSWERS:
        text = replaced(text, name, block(name))
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
