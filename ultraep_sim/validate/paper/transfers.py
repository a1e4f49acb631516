"""Weight distribution by initial imbalance: every published row, and the grid direct and relayed.

The final model relays by the published rule. Launch and rates are constants, see
`ultraep_sim.validate.transfers` for the rows they were fitted on.
"""

from __future__ import annotations

from ..rows import Row, make_row
from ..tables import Record, Tables, number, row_name
from ..transfers import BULK, DIRECT, DRAWS, RELAY, Setting, plan_of, setting_of, simulate
from ..transfers import transport_of as kind_of

TABLE = "weight_distribution"
GRID = ("1.5", "2.0", "4.0", "6.0", "8.0")
SETTING = "Qwen3-235B, EP64"
NAMES = {DIRECT: "direct", RELAY: "relay", BULK: "send_recv"}


def rows(tables: Tables, read: set[tuple[str, str, str]]) -> list[Row]:
    """Return every row; ``case`` is the initial imbalance as it stands in the table, and how."""
    out, seen = [], set()
    for row in tables[TABLE]:
        setting, kind = setting_of(row["case"]), kind_of(row["transport"])
        name = f"{row['initial_imbalance']}/{NAMES.get(kind or '', row['transport'])}"
        seen.add((name, setting))
        out += _published(row, setting, kind, name, read)
    known = setting_of(SETTING)
    assert known is not None  # noqa: S101  # the name is ours
    for text in GRID:
        for kind in (DIRECT, RELAY):
            name = f"{text}/{NAMES[kind]}"
            if (name, known) not in seen:
                for metric, value in _simulated(known, float(text), kind).items():
                    out.append(
                        make_row(
                            TABLE, name, metric, None, value, fitted=False,
                            provenance=f"not published; {SETTING}",
                        )
                    )  # fmt: skip
    return out


def _published(
    row: Record,
    setting: Setting | None,
    kind: str | None,
    name: str,
    read: set[tuple[str, str, str]],
) -> list[Row]:
    at = number(row["initial_imbalance"])
    known = setting is not None and kind is not None and at is not None
    ours = _simulated(setting, at, kind) if known else {}  # type: ignore[arg-type]  # known
    out = []
    for metric in ("latency_ms", "critical_path_GBps"):
        published, value = number(row[metric]), ours.get(metric)
        if published is None and (value is None or metric != "latency_ms"):
            continue
        told = f"{row.get('provenance') or 'not said'}; {row['case']}"
        out.append(
            make_row(
                TABLE, name, metric, published, value,
                fitted=(TABLE, row_name(TABLE, row), metric) in read,
                provenance=told if value is not None else f"{told}; not simulated",
            )
        )  # fmt: skip
    return out


def _simulated(setting: Setting, imbalance: float, kind: str) -> dict[str, float]:
    """Return latency, and where copies leave the busiest home one by one the rate of its link."""
    seconds = simulate(setting, imbalance, kind)
    if not seconds:
        return {}
    found = {"latency_ms": 1e3 * sum(seconds) / len(seconds)}
    if kind == DIRECT:
        plans = (plan_of(setting, imbalance, index) for index in range(DRAWS))
        copies = [int(plan.sends_per_rank.max()) for plan in plans if plan is not None]
        rates = [n * setting.copy_bytes / one / 1e9 for n, one in zip(copies, seconds, strict=True)]
        found["critical_path_GBps"] = sum(rates) / len(rates)
    return found
