"""Simulated weight distribution beside the published one: direct, relayed, send/receive.

The published rows name the initial imbalance, not the loads. Ours are Zipf over ranks with
exponent 4.0 inside a rank, planned by ``ultraep`` with two slots a rank, and each transport is
executed in time (`ultraep_sim.fabric.tile_stream`, `ultraep_sim.fabric.bulk`).

What is fitted, and on what (`constants` lists every number):

- tile streaming: the per-tile overhead, on the slope of the README's three direct rows, and its
  launch, on their intercept; link bandwidth is nominal. What a relay adds to the launch (15 us,
  as published) is the figure's relay row less its direct one at imbalance 1.5 and 2.
- send/receive: one launch and one rate, on its rows at imbalance 1.5 and 8.

The other rows are predicted. ``plain_ms`` leaves the relay's launch out: link bandwidth and
per-tile overhead alone, on which chunks and flags add 0 to 4 us. ``gain_ms`` relays by modelled
gain instead of by the rule.

Known misses, left as they are:

- The relay rows of the figure and of the README contradict each other: 0.285 and 0.195 ms at
  imbalance 2, where their direct rows agree. The rule as published relays from four replicas on,
  and so predicts the README's. The figure's read as if only experts with six replicas or more
  were relayed (``from_six_ms``). At 1.5 the rule finds too little gain to relay at all; the
  README's row is faster than its direct one, so that system did (as ``gain_ms`` does).
- Every published relay row is 20 to 32 us above the busiest sender's copies, we add 15 to 19.
- Direct at imbalance 8: 0.522 ms are ten copies from the hottest home, our loads need twelve.
- send/receive grows faster from 1.5 to 2 and more slowly from there than its longest chain of
  messages does.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..fabric.bulk import BULK_BASE, BULK_RATE, bulk_plan
from ..fabric.relay_choice import candidate_tree, choose_tiles
from ..fabric.tile_stream import StreamModel, stream
from ..fabric.tiles import tile_list
from ..model.hardware import get_rack
from ..model.profiles import RackProfile
from ..model.provenance import Quantity
from ..model.shapes import get_model
from ..planning.plan import Plan
from ..planning.relay import relay_tree
from ..policies import get_policy
from .draws import Shape, zipf_loads
from .tables import FOLDER

if TYPE_CHECKING:
    from rich.console import RenderableType

PUBLISHED = FOLDER / "weight_distribution.csv"
SLOTS = 2
DRAWS = 4
SEED = 0
FIGURE_MIN_FANOUT = 6

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]

_COLUMNS = ("case", "initial_imbalance", "transport", "latency_ms")
BULK, DIRECT, RELAY = "bulk", "direct", "relay"


@dataclass(frozen=True)
class Setting:
    """Experts, ranks and bytes of one expert that a case names."""

    experts: int
    ranks: int
    copy_bytes: int


def rows(path: Path = PUBLISHED, progress: Progress | None = None) -> list[Row]:
    """Simulate every published row.

    Parameters
    ----------
    path : Path
        CSV with ``case``, ``initial_imbalance``, ``transport``, ``latency_ms``.
    progress : callable, optional
        Called with a name, what is done, and the total.

    Returns
    -------
    list of dict
        ``case``, ``imbalance``, ``transport``, ``published_ms``, ``simulated_ms`` (mean over
        draws; None where case or transport is unknown), ``low_ms`` and ``high_ms`` over draws,
        ``error`` (simulated over published, less 1), ``fitted`` (a constant was fitted on this
        row), ``from_six_ms`` (relay rows only, see above).

    Raises
    ------
    InputError
        The file is missing, or a cell cannot be read.
    """
    published = list(_read(path))
    out = []
    for done, row in enumerate(published):
        out.append(_row(row))
        if progress is not None:
            progress("weight distribution", done + 1, len(published))
    return out


def run(progress: Progress | None = None) -> list[Row]:
    """Return `rows` of the published file that ships."""
    return rows(progress=progress)


def _read(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise InputError(
            "no published weight-distribution rows here", file=path,
            remedy=f"give a CSV with the columns {', '.join(_COLUMNS)}",
        )  # fmt: skip
    with path.open(newline="", encoding="utf-8") as file:
        for number, cells in enumerate(csv.DictReader(file), start=2):
            try:
                yield {
                    "case": cells["case"],
                    "imbalance": float(cells["initial_imbalance"]),
                    "transport": cells["transport"],
                    "published_ms": float(cells["latency_ms"]) if cells["latency_ms"] else None,
                }
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    "a row cannot be read", file=path, place=f"line {number}", value=str(error),
                    remedy=f"give {', '.join(_COLUMNS)}, the middle and last as numbers",
                ) from None  # fmt: skip


def _row(row: Row) -> Row:
    setting, kind = setting_of(row["case"]), transport_of(row["transport"])
    found: Row = {
        "simulated_ms": None, "low_ms": None, "high_ms": None, "error": None, "fitted": False,
        "plain_ms": None, "gain_ms": None, "from_six_ms": None,
    }  # fmt: skip
    if setting is None or kind is None:
        return row | found
    seconds = simulate(setting, row["imbalance"], kind)
    if not seconds:
        return row | found
    simulated = 1e3 * sum(seconds) / len(seconds)
    found |= {
        "simulated_ms": simulated,
        "low_ms": 1e3 * min(seconds),
        "high_ms": 1e3 * max(seconds),
        "fitted": _was_fitted(row["case"], row["imbalance"], kind),
    }
    if row["published_ms"]:
        found["error"] = simulated / row["published_ms"] - 1
    if kind == RELAY:
        found["plain_ms"] = simulated - 1e3 * _relay_launch(setting, row["imbalance"], len(seconds))
        for name in ("gain", "from_six"):
            other = simulate(setting, row["imbalance"], name)
            found[f"{name}_ms"] = 1e3 * sum(other) / len(other)
    return row | found


def setting_of(case: str) -> Setting | None:
    """Read experts, ranks and size of an expert from the name of a case; None if it names none."""
    ranks = re.search(r"EP\s?(\d+)", case)
    if ranks is None:
        return None
    if "qwen3-235b" in case.lower():
        model = get_model("qwen3-235b")
        size = round(model.expert_bytes("bf16"))
        return Setting(model.num_experts, int(ranks[1]), size)
    experts, size_MiB = re.search(r"(\d+) experts", case), re.search(r"(\d+) MiB", case)
    if experts is None or size_MiB is None:
        return None
    return Setting(int(experts[1]), int(ranks[1]), int(size_MiB[1]) * 2**20)


def transport_of(name: str) -> str | None:
    """Say which of ours a published transport is; None if none."""
    name = name.lower()
    if "relay" in name:
        return RELAY
    if "send/recv" in name:
        return BULK
    return DIRECT if "direct" in name else None


def _was_fitted(case: str, imbalance: float, kind: str) -> bool:
    if kind == BULK:
        return imbalance in (1.5, 8.0)
    if kind == RELAY:
        return "Qwen3" in case and imbalance < 3
    return "36 MiB" in case


def simulate(setting: Setting, imbalance: float, kind: str, draws: int = DRAWS) -> list[float]:
    """Return the seconds of one transport for every draw; empty if none reaches the imbalance.

    Parameters
    ----------
    setting : Setting
    imbalance : float
        Initial max over mean rank load.
    kind : {"bulk", "direct", "relay", "gain", "from_six"}
        ``relay`` by the rule, ``gain`` by modelled gain, ``from_six`` wherever an expert has six
        replicas.
    draws : int
    """
    plans = (plan_of(setting, imbalance, index) for index in range(draws))
    return [_seconds(plan, setting, kind) for plan in plans if plan is not None]


@cache
def plan_of(setting: Setting, imbalance: float, index: int) -> Plan | None:
    """Plan one draw with ``ultraep``; every draw has a random stream of its own."""
    shape = Shape(setting.experts, setting.ranks, SLOTS)
    key = (zlib.crc32(b"weight distribution"), *shape, round(imbalance * 1000), index)
    rng = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=key))
    loads = zipf_loads(rng, shape, imbalance)
    if loads is None:
        return None
    policy = get_policy("ultraep", shape.layout())
    return policy.plan(loads, policy.new_state())


def _seconds(plan: Plan, setting: Setting, kind: str) -> float:
    if kind == BULK:
        return bulk_plan(plan, setting.copy_bytes).seconds
    model = StreamModel.of(_rack())
    if kind == "from_six":
        parent, _ = candidate_tree(plan.offsets, plan.rank, setting.ranks, FIGURE_MIN_FANOUT)
        tiles = tile_list(
            plan.offsets, plan.rank, plan.slot, setting.ranks, setting.copy_bytes, parent=parent
        )
        return stream(tiles, model).seconds
    decide: Any = {DIRECT: "off", RELAY: "rule", "gain": "gain"}[kind]
    return choose_tiles(plan, setting.copy_bytes, model, decide=decide)[1].seconds


def _relay_launch(setting: Setting, imbalance: float, draws: int) -> float:
    """Return the mean seconds of relay launches in the draws: all that follows is shifted by it."""
    relayed = [
        plan is not None
        and relay_tree(plan.offsets, plan.rank, setting.ranks, plan.layout.domain)[1]
        for plan in (plan_of(setting, imbalance, index) for index in range(draws))
    ]
    return _rack().relay_us.si * sum(relayed) / len(relayed)


def _rack() -> RackProfile:
    return get_rack("paper-rack64")


def constants() -> dict[str, Quantity]:
    """Every number the simulated column rests on."""
    model = StreamModel.of(_rack())
    return {
        "link bandwidth": model.link,
        "per-tile overhead": model.tile_overhead,
        "launch and end of the kernel": model.base,
        "launch of a relay": model.relay,
        "ready flag": model.flag,
        "thread blocks": model.workers,
        "HBM": model.hbm,
        "send/recv launch": BULK_BASE,
        "send/recv rate": BULK_RATE,
    }


def medians(found: list[Row]) -> dict[str, float]:
    """Median absolute error over all rows, with the plain law, over predicted rows, by transport.

    ``predicted`` are the rows no constant was fitted on; ``all, plain`` leaves the relay's launch
    out. A group without a published row is left out.
    """
    groups = {"all": found, "all, plain": found}
    groups["predicted"] = [row for row in found if not row["fitted"]]
    for row in found:
        groups.setdefault(row["transport"], []).append(row)
    out = {}
    for name, group in groups.items():
        errors = [_plain_error(row) if "plain" in name else row["error"] for row in group]
        known = [abs(error) for error in errors if error is not None]
        if known:
            out[name] = median(known)
    return out


def _plain_error(row: Row) -> float | None:
    if row["error"] is None or row["plain_ms"] is None:
        error: float | None = row["error"]
        return error
    return float(row["plain_ms"] / row["published_ms"] - 1)


_HEADS = (
    "case", "imbalance", "transport", "published ms", "simulated ms", "error",
    "plain", "gain", "from six",
)  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    error = text(row["error"], "+.1%") + (" (fitted)" if row["fitted"] else "")
    return (
        row["case"], f"{row['imbalance']:g}", row["transport"], text(row["published_ms"], ".3f"),
        text(row["simulated_ms"], ".3f"), error, text(row["plain_ms"], ".3f"),
        text(row["gain_ms"], ".3f"),
        text(row["from_six_ms"], ".3f"),
    )  # fmt: skip


def _summary(found: list[Row]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in medians(found).items())


def show(found: list[Row]) -> list[RenderableType]:
    """Return the comparison as things to print one after the other."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in _HEADS:
        left = head in ("case", "transport")
        table.add_column(head, justify="left" if left else "right", no_wrap=True)
    for row in found:
        table.add_row(*_cells(row))
    legend = "\n".join(f"{name}: {quantity}" for name, quantity in constants().items())
    return [
        Text("Weight distribution, simulated beside published", "bold"),
        table,
        Text(f"median absolute error: {_summary(found)}"),
        Text(
            "fitted: a constant was fitted on this row; the others are predicted.\n"
            "plain: without the launch of a relay. gain: relayed where that is faster. "
            "from six: relay only from six replicas on, which is how the figure's rows read."
        ),
        Text(legend),
    ]


def markdown(found: list[Row]) -> str:
    """Return the comparison as a Markdown table and a line of medians."""
    lines = [f"| {' | '.join(_HEADS)} |", f"|---|---:|---|{'---:|' * (len(_HEADS) - 3)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in found]
    return "\n".join([*lines, "", f"Median absolute error: {_summary(found)}."])
