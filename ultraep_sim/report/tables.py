"""The results table: policies in rows, units in headers, and one sentence of finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


class _Column(NamedTuple):
    key: str
    header: str
    show: Callable[[float], str]


COLUMNS = (
    _Column("mean_rank_imbalance", "mean\nimbalance\n[max/mean]", lambda v: f"{v:.3f}"),
    _Column("p99_rank_imbalance", "p99\nimbalance\n[max/mean]", lambda v: f"{v:.3f}"),
    _Column("layer_time_ms", "layer\ntime\n[ms]", lambda v: f"{v:.3f}"),
    _Column("fraction_of_ideal", "of ideal\nthroughput\n[%]", lambda v: f"{100 * v:.1f}"),
    _Column("speedup_over_none", "speed-up\nover none\n[x]", lambda v: f"{v:.2f}"),
    _Column("exposed_overhead_us_per_layer", "exposed\noverhead\n[us/layer]", lambda v: f"{v:.1f}"),
    _Column("replicas_per_plan", "replicas\n\n[per plan]", lambda v: f"{v:.1f}"),
    _Column("activation_peak_ratio", "activation\npeak\n[x ideal]", lambda v: f"{v:.2f}"),
)

#: Of whole training iterations.
TRAINING_COLUMNS = (
    COLUMNS[0],
    COLUMNS[2],
    _Column("iteration_ms", "iteration\n\n[s]", lambda v: f"{v / 1e3:.3f}"),
    _Column("tflops_per_gpu", "TFLOPS\nper GPU\n", lambda v: f"{v:.1f}"),
    _Column("fraction_of_ideal", "of\nideal\n[%]", lambda v: f"{100 * v:.1f}"),
    COLUMNS[4],
    _Column("communication_exposed", "exposed\ncomm.\n[%]", lambda v: f"{100 * v:.1f}"),
    _Column("pipeline_idle", "pipeline\nidle\n[%]", lambda v: f"{100 * v:.1f}"),
    _Column("sync_exposed", "sync,\noptim.\n[%]", lambda v: f"{100 * v:.1f}"),
    COLUMNS[7],
)
_GOODPUT = _Column("goodput", "goodput\nof campaign\n[%]", lambda v: f"{100 * v:.1f}")


def columns_of(rows: Sequence[Row]) -> tuple[_Column, ...]:
    """Return the columns that say most of these rows: iterations', where they are timed."""
    if not any("iteration_ms" in row for row in rows):
        return COLUMNS
    lossy = any("goodput" in row for row in rows)
    return (*TRAINING_COLUMNS, _GOODPUT) if lossy else TRAINING_COLUMNS


def cells(row: Row, columns: Sequence[_Column] = COLUMNS) -> list[str]:
    """Return one row as text, exactly as the table shows it; an absent number is a dash."""
    return [
        str(row["policy"]),
        *("-" if row.get(c.key) is None else c.show(float(row[c.key])) for c in columns),
    ]


def results_table(rows: Sequence[Row]) -> Table:
    """Lay out the rows of a run: the ``rows`` of the JSON contract, one a policy."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy\n\n", justify="left", no_wrap=True)
    columns = columns_of(rows)
    for column in columns:
        table.add_column(Text(column.header), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in cells(row, columns)))
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the same table as Markdown, for documents that a test recomputes."""
    columns = columns_of(rows)
    heads = ["policy", *(" ".join(c.header.split()) for c in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    lines += ["| " + " | ".join(cells(row, columns)) + " |" for row in rows]
    return "\n".join(lines)


def title_of(scenario: Mapping[str, Any]) -> str:
    """Say what was run, from the resolved scenario: name, model, EP group, slots, rack."""
    model, rack = (_preset_name(scenario[key]) for key in ("model", "rack"))
    ep = scenario["ep"]
    return (
        f"{scenario['name']}: {model}, EP{ep['ranks']}, {ep['slots_per_rank']} redundant slots "
        f"a rank, on {rack}"
    )


def _preset_name(value: Any) -> str:
    """Name a model or rack: a preset as it is, a changed one with what it was made from."""
    if isinstance(value, Mapping):
        return str(value.get("name") or f"{value.get('preset', 'custom')} (changed)")
    return str(value)


def finding(rows: Sequence[Row], names: Mapping[str, str] | None = None) -> str:
    """Say in one plain sentence what the numbers show.

    Parameters
    ----------
    rows : sequence of mappings
        The ``rows`` of the JSON contract.
    names : mapping, optional
        Policy name by label, to tell ``none`` and ``ideal`` apart from the contenders.

    Returns
    -------
    str
    """
    named = {
        str(row["policy"]): (names or {}).get(str(row["policy"]), row["policy"]) for row in rows
    }
    base = next((row for row in rows if named[str(row["policy"])] == "none"), None)
    contenders = [row for row in rows if named[str(row["policy"])] not in ("none", "ideal")]
    if not contenders:
        return _base_alone(base)
    judge = _judged_by(rows)
    best = min(contenders, key=lambda row: float(row[judge.key]))
    text = f"{best['policy']} is the fastest"
    if base is None:
        text += (
            f": mean imbalance {best['mean_rank_imbalance']:.3f}, "
            f"{judge.show(best, 1)} {judge.what}"
        )
    elif best[judge.key] >= base[judge.key]:
        return (
            f"No policy pays here: without balancing {judge.what} takes {judge.show(base, 1)}, "
            f"with the best one, {best['policy']}, {judge.show(best, 1)}."
        )
    else:
        text += (
            f": it takes the mean imbalance from {base['mean_rank_imbalance']:.2f} to "
            f"{best['mean_rank_imbalance']:.3f} and {judge.what} from "
            f"{judge.show(base).removesuffix(judge.unit).strip()} to {judge.show(best)}, "
            f"{best['speedup_over_none']:.2f}x over no balancing"
        )
    if best.get("fraction_of_ideal") is not None:
        text += f", {100 * best['fraction_of_ideal']:.1f} % of the ideal throughput"
    return text + _worse_than_none(base, contenders, judge.key)


class _Judge(NamedTuple):
    """What policies are judged by: a key in milliseconds, told in a unit."""

    key: str
    what: str
    unit: str
    per_ms: float
    digits: int

    def show(self, row: Row, more: int = 0) -> str:
        """Tell the time of a row, with so many digits more."""
        return f"{float(row[self.key]) * self.per_ms:.{self.digits + more}f} {self.unit}"


def _judged_by(rows: Sequence[Row]) -> _Judge:
    if any("iteration_ms" in row for row in rows):
        return _Judge("iteration_ms", "an iteration", "s", 1e-3, 2)
    return _Judge("layer_time_ms", "a layer", "ms", 1.0, 2)


def _base_alone(base: Row | None) -> str:
    if base is None:
        return "Only the ideal was run; add policies to compare."
    return f"Without balancing the mean imbalance is {base['mean_rank_imbalance']:.2f}."


def _worse_than_none(base: Row | None, contenders: Sequence[Row], key: str) -> str:
    if base is None:
        return "."
    worse = [str(r["policy"]) for r in contenders if r[key] > base[key]]
    if not worse:
        return "."
    return f"; slower than no balancing: {', '.join(worse)}."
