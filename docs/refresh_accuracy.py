"""Fit the load dynamics anew and recompute the comparisons of docs/accuracy.md (a minute).

The block that `make readme` writes is the other script's; `tests/validate/test_accuracy_page.py`
fails where the page says anything else than what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultraep_sim.report.pages import replaced
from ultraep_sim.validate import breakdown, training, transfers
from ultraep_sim.validate.dynamics import store
from ultraep_sim.validate.paper.runs import refit
from ultraep_sim.validate.first_principles import ideal_rows
from ultraep_sim.validate.show import ACCURACY, BREAKDOWN, IDEAL, TRAINING, markdown
from ultraep_sim.validate.training import Prepared
from ultraep_sim.validate.uneven import PARTS, implied, published
from ultraep_sim.validate.waiting import WAITING, waiting_rows

PAGE = Path(__file__).with_name("accuracy.md")


def layer_block(prepared: Sequence[Prepared]) -> str:
    """Tell the layer breakdown under a synthetic trace, and what its misses have in common."""
    one = next(one for one in prepared if one.case.shape.name == breakdown.MODEL)
    rows = breakdown.rows_of(one.case, one.loads)
    factors = dict(zip(PARTS, (published().compute, published().all_to_all), strict=True))
    told = []
    for part, factor in factors.items():
        by_policy = ", ".join(f"{value:.2f} (`{name}`)" for name, value in implied(part).items())
        told.append(
            f"- {part.replace('_', ' ')}: published over plain law {by_policy}; "
            f"geometric mean {factor.value:.3f}."
        )
    return markdown(rows, BREAKDOWN) + "\n\n" + "\n".join(told)


def training_block(prepared: Sequence[Prepared]) -> str:
    """Tell the training table, its errors, and the errors at other settings."""
    rows = training.table(prepared)
    dynamics = ", ".join(
        f"{one.case.shape.name} {one.dynamics.noise:.3f} ({one.dynamics.fitted_to})"
        for one in prepared
    )
    overheads = {row["class"]: row["overhead_us"] for row in rows if row["class"]}
    outside = ", ".join(
        f"{row['model']} {row['ideal_share']:.3f} and {row['outside_share']:.3f}"
        for row in rows
        if row["policy"] == "ideal"
    )
    return "\n\n".join(
        (
            markdown(rows, TRAINING),
            f"Noise fitted: {dynamics}.",
            "Share of expert GEMM and all-to-all in the ideal step (s), and of what lies outside "
            f"the layers: {outside}.",
            "Fitted overhead a layer [us]: "
            + ", ".join(f"{name} {value:.0f}" for name, value in overheads.items())
            + ".",
            markdown(training.band(prepared), ACCURACY),
        )
    )


def waiting_block(prepared: Sequence[Prepared]) -> str:
    """Tell how long replicas wait for the slowest one."""
    return markdown(waiting_rows(prepared), WAITING)


def ideal_block() -> str:
    """Tell the ideal throughput from first principles."""
    return markdown(ideal_rows(), IDEAL)


def transfers_block() -> str:
    """Tell the weight distribution."""
    return transfers.markdown(transfers.run())


def main() -> None:
    """Write the page."""
    store(refit(load_tables().inputs()))
    prepared = training.prepare()
    blocks: dict[str, Any] = {
        "layer": layer_block(prepared),
        "training": training_block(prepared),
        "waiting": waiting_block(prepared),
        "ideal": ideal_block(),
        "transfers": transfers_block(),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, new in blocks.items():
        text = replaced(text, name, new)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
