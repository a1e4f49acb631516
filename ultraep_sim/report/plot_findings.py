"""The figures of a sweep's report on paper: who wins where, curves, cost of a wrong choice, Pareto.

Colour tells policies apart as in all other plots; names, hatches and markers tell the same again,
for a grey printer and for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .style import FAINT, INK, MUTED, policy_look
from .sweep_figures import (
    Flat,
    curve_rows,
    main_axis,
    others,
    pareto_rows,
    regret_rows,
    short,
    winner_rows,
    words,
)
from .sweep_table import SweepTable, number, shown
from .sweep_text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS, MAX_PANELS, MAX_BARS = 48, 6, 12
MAX_NAME = 64
_MARKERS = "osD^vPX*"
#: Strength of a cell's colour: from a margin of nothing to the largest.
_PALE, _FULL = 0.18, 0.75


def fair(text: str, most: int = MAX_NAME) -> str:
    """Return a name as a plot can show it: cut in the middle, and no mathematics in it."""
    if len(text) > most:
        text = f"{text[: most // 2]}\N{HORIZONTAL ELLIPSIS}{text[1 - most // 2 :]}"
    return text.replace("$", r"\$")


def _looks(table: SweepTable) -> dict[str, tuple[Any, Any, str]]:
    known = policy_look(table.policies, {})
    return {
        label: (*known[label], _MARKERS[i % len(_MARKERS)])
        for i, label in enumerate(table.policies)
    }


def _subplots(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    return plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )  # fmt: skip


def _title(figure: Figure, table: SweepTable, text: str, note: str) -> None:
    kind = f" ({table.synthetic} load)" if table.synthetic else ""
    figure.suptitle(fair(text) + kind, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=MUTED)


def winner_map(table: SweepTable) -> Figure:
    """Draw who wins at each point, with the margin; hatched where it is a tie."""
    along = main_axis(table)
    rest = [name for name in table.axes if name != along]
    lanes = others(table, along)
    found = dict(zip(table.places, winner_rows(table, table.aim.metric), strict=True))
    columns = table.values[along] if along else [None]
    kept = lanes[:MAX_ROWS]
    figure, axes = _subplots(1, 1, 2.6 + max(4.0, 0.95 * len(columns)), 1.6 + 0.42 * len(kept))
    axis = axes[0][0]
    looks = _looks(table)
    top = max((row["margin_percent"] or 0.0 for row in found.values()), default=0.0) or 1.0
    for place, row in found.items():
        lane = table.part(place, rest)
        if lane in kept:
            x = columns.index(table.part(place, [along])[0]) if along else 0
            _cell(axis, x, kept.index(lane), row, looks, top)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(len(kept) - 0.5, -0.5)
    axis.set_xticks(
        range(len(columns)), [fair(shown(value), 16) for value in columns] if along else [""]
    )
    axis.set_yticks(range(len(kept)), [fair(words(rest, lane)) for lane in kept])
    axis.tick_params(length=0)
    axis.set_xlabel(fair(along or ""))
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    note = f"margin over the runner-up by {fair(table.aim.metric)}; "
    note += "hatched: a tie, its band includes 0"
    if len(lanes) > len(kept):
        note += f"; {len(kept)} of {len(lanes)} lines, all are in the page and in data/winners.csv"
    _title(figure, table, "Who wins where, and by how much", note)
    return figure


def _cell(axis: Axes, x: int, y: int, row: Flat, looks: dict[str, Any], top: float) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    name, margin = row["winner"], row["margin_percent"]
    if name is None:
        colour, text, hatch = FAINT, "nothing fits" if row["not_fitting"] else "no value", "xxx"
    else:
        part = _PALE + (_FULL - _PALE) * min(1.0, max(0.0, margin or 0.0) / top)
        paint = to_rgb(looks[name][0])
        colour = tuple(1 - part * (1 - c) for c in paint)  # type: ignore[assignment]
        text = f"{fair(name, 16)}\n{'alone' if margin is None else percent(margin)}"
        hatch = "////" if row["tied_with"] else ""
    axis.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", hatch=hatch)
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=7, color=INK, linespacing=1.05)


def curves(table: SweepTable) -> Figure:
    """Draw the headline metric along the main axis, a band around each policy's line."""
    along = main_axis(table)
    rest = [name for name in table.axes if name != along]
    lanes = others(table, along)
    kept = lanes[:MAX_PANELS]
    across = min(3, len(kept))
    down = -(-len(kept) // across)
    figure, axes = _subplots(down, across, 2.0 + (4.6 if across == 1 else 2.7 * across),
                             0.7 + 2.8 * down)  # fmt: skip
    rows = curve_rows(table, table.aim.metric)
    looks = _looks(table)
    flat = [axis for line in axes for axis in line]
    for axis, lane in zip(flat, kept, strict=False):
        here = [row for row in rows if tuple(row[name] for name in rest) == lane]
        _panel(axis, table, here, along, looks)
        if rest:
            axis.set_title(fair(words(rest, lane), 44), loc="left", color=MUTED, fontsize=8)
    for axis in flat[len(kept) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel(fair(table.aim.metric))
    handles: dict[str, Any] = {}
    for axis in flat:
        handles |= {k: h for h, k in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8,
                  handlelength=2.6)  # fmt: skip
    note = "band: 5-95 % over seeds and draws" if len(table.samples) > 1 else "one sample: no band"
    note += "; hollow: does not fit in memory"
    if len(lanes) > len(kept):
        note += f"; {len(kept)} of {len(lanes)} panels, all are in the page and in data/curves.csv"
    _title(
        figure, table, f"{table.aim.metric} ({table.aim.metrics[table.aim.metric]} is better)", note
    )
    return figure


def _panel(
    axis: Axes, table: SweepTable, rows: Sequence[Flat], along: str | None, looks: dict[str, Any]
) -> None:
    places = table.values[along] if along else [None]
    named = any(number(value) is None for value in places)
    for policy in table.policies:
        mine = [row for row in rows if row["policy"] == policy]
        if not mine:
            continue
        color, dash, marker = looks[policy]
        xs = [places.index(row[along]) if named else row[along] for row in mine] if along else [0]
        axis.plot(xs, [row["value"] for row in mine], color=color, linestyle=dash, marker=marker,
                  markersize=4, linewidth=1.5, label=fair(policy, 24))  # fmt: skip
        banded = [(x, row) for x, row in zip(xs, mine, strict=True) if row["value_p5"] is not None]
        if len(banded) > 1:
            axis.fill_between([x for x, _ in banded], [r["value_p5"] for _, r in banded],
                              [r["value_p95"] for _, r in banded], color=color, alpha=0.16,
                              linewidth=0)  # fmt: skip
        for x, row in banded if len(banded) == 1 else ():
            axis.vlines(x, row["value_p5"], row["value_p95"], color=color, linewidth=1)
        out = [(x, row["value"]) for x, row in zip(xs, mine, strict=True) if not row["fits"]]
        if out:
            axis.plot(*zip(*out, strict=True), color=color, linestyle="none", marker=marker,
                      markersize=4, markerfacecolor="white", zorder=3)  # fmt: skip
    if all(row["value"] >= 0 for row in rows):
        axis.set_ylim(bottom=0)  # so that a small difference looks small
    if named or len(places) <= 10:
        axis.minorticks_off()
        at = list(range(len(places))) if named else [number(value) or 0.0 for value in places]
        axis.set_xticks(at, [fair(shown(value), 16) if along else "" for value in places])
    axis.set_xlabel(fair(short(along)) if along else "")
    axis.grid(axis="y", color=FAINT, linewidth=0.6)


def cost_of_being_wrong(table: SweepTable) -> Figure:
    """Draw what each choice loses when it is made everywhere: mean, 90th percentile and worst."""
    rows = regret_rows(table, table.aim.metric)
    groups: dict[str, list[Flat]] = {}
    for row in rows:
        groups.setdefault(row["chosen"], []).append(row)
    groups = {name: found[:MAX_BARS] for name, found in groups.items()} or {"policy": []}
    heights = [max(1, len(found)) for found in groups.values()]
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(groups), 1, figsize=(7.6, 1.0 + 0.26 * sum(heights) + 0.55 * len(groups)), sharex=True,
        squeeze=False, layout="constrained", gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    looks = _looks(table)
    for axis, (name, found) in zip((line[0] for line in axes), groups.items(), strict=True):
        _bars(axis, found, looks)
        axis.set_title(fair(f"one {name} everywhere"), loc="left", color=MUTED)
    axes[-1][0].set_xlabel("loss against the best at each point [%]")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", fontsize=8, ncols=3)
    cut = any(len(found) == MAX_BARS for found in groups.values())
    note = "numbers: mean, 90th percentile, worst; (n of m): fits and has a value at n of m points"
    _title(figure, table, "What a wrong choice costs",
           note + (f"; the best {MAX_BARS} of a kind" if cut else ""))  # fmt: skip
    return figure


def _bars(axis: Axes, rows: Sequence[Flat], looks: dict[str, Any]) -> None:
    names = []
    for y, row in enumerate(rows):
        colour = looks[row["policy"]][0] if row["policy"] in looks else MUTED
        first = y == 0
        axis.barh(y, row["mean_loss_percent"], color=colour, height=0.6)
        if first:
            axis.barh(y, 0.0, color=MUTED, label="mean")
        if row["mean_loss_percent_p5"] is not None:
            axis.hlines(y, row["mean_loss_percent_p5"], row["mean_loss_percent_p95"], color=INK,
                        linewidth=1.2)  # fmt: skip
        axis.plot(row["p90_loss_percent"], y, "|", color=INK, markersize=9, linestyle="none",
                  label="90th percentile" if first else None)  # fmt: skip
        axis.plot(row["worst_loss_percent"], y, "o", color=INK, markersize=3.5, linestyle="none",
                  label="worst" if first else None)  # fmt: skip
        text = "  ".join(
            percent(row[f"{key}_loss_percent"]).removesuffix(" %")
            for key in ("mean", "p90", "worst")
        )
        axis.text(1.01, y, text, va="center", fontsize=7, color=MUTED, transform=_beside(axis))
        some = row["points"] < row["of_points"]
        names.append(
            fair(row["choice"], 44) + (f" ({row['points']} of {row['of_points']})" if some else "")
        )
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
    axis.grid(axis="x", color=FAINT, linewidth=0.6)


def _beside(axis: Axes) -> Any:
    from matplotlib.transforms import blended_transform_factory

    return blended_transform_factory(axis.transAxes, axis.transData)


def pareto_front(table: SweepTable) -> Figure | None:
    """Draw throughput against memory with the front; None where no memory is known."""
    rows = pareto_rows(table, table.aim.metric)
    rows = [row for row in rows if row["throughput_percent_of_best"] is not None]
    if not rows:
        return None
    figure, axes = _subplots(1, 1, 7.2, 4.0)
    axis = axes[0][0]
    looks = _looks(table)
    memory = table.aim.spec.memory
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        color, _, marker = looks[policy]
        for fits, face in ((True, color), (False, "white")):
            some = [row for row in mine if row["fits"] is fits]
            axis.plot([row[memory] for row in some],
                      [row["throughput_percent_of_best"] for row in some], marker, color=color,
                      markerfacecolor=face, markersize=5, linestyle="none",
                      label=fair(policy, 24) if fits else None)  # fmt: skip
    front = [row for row in rows if row["on_front"]]
    axis.step([row[memory] for row in front],
              [row["throughput_percent_of_best"] for row in front], where="post", color=INK,
              linewidth=1, zorder=0, label="front")  # fmt: skip
    for at, row in enumerate(front[:MAX_BARS], start=1):
        axis.annotate(f"{at}", (row[memory], row["throughput_percent_of_best"]), xytext=(5, 5),
                      textcoords="offset points", fontsize=8, fontweight="bold")  # fmt: skip
        axis.plot([], [], linestyle="none", label=f"{at}  {fair(row['choice'], 44)}")
    axis.margins(0.08)
    axis.set_xlabel(f"{fair(memory)}, fullest GPU, under the worst condition")
    axis.set_ylabel("throughput [% of the best choice]")
    axis.grid(color=FAINT, linewidth=0.6)
    figure.legend(loc="outside right center", fontsize=8)
    _title(figure, table, "Throughput against memory", "hollow: does not fit in memory")
    return figure


FIGURES: dict[str, Callable[[SweepTable], Figure | None]] = {
    "winners": winner_map,
    "curves": curves,
    "regret": cost_of_being_wrong,
    "pareto": pareto_front,
}
