"""Schematic of a fabric: its racks under the spines, and one rack with all that is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ultraep_sim.report.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILION,
    heading,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: GPUs and racks drawn one by one; of more, the first ones are.
MAX_GPUS, MAX_RACKS = 72, 44
WIDTH, LEFT, RIGHT = 100.0, 11.5, 99.0  # of the axes, and where the drawing stands in it

# Heights of the rows of the rack, from the planes up, and of their boxes.
_Y = {"plane": 0.0, "gpu": 2.7, "nic": 4.4, "leaf": 6.5, "spine": 8.9}
_HIGH = {"plane": 0.6, "gpu": 0.62, "nic": 0.36, "leaf": 0.6, "spine": 0.6}


def write(data: dict[str, Any], path: Path) -> None:
    """Draw a fabric into a file.

    Parameters
    ----------
    data : dict
        As ``ultraep-sim topology --json`` prints it.
    path : Path
        Ends with .png or .svg.
    """
    import matplotlib.pyplot as plt

    with style():
        drawn = figure(data)
        clean = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        drawn.savefig(path, dpi=150, metadata=clean)
        plt.close(drawn)


def figure(data: dict[str, Any]) -> Figure:
    """Draw the racks (where there are several) above one rack in detail."""
    import matplotlib.pyplot as plt

    several = data["racks"] > 1
    size = (11.0, 8.6 if several else 5.9)
    fig = plt.figure(figsize=size)
    top = heading(fig, _title(data), _caption(data))
    bottom, detail = 0.03, 4.75 / size[1]
    rack = fig.add_axes((0.0, bottom, 1.0, detail if several else top - bottom - 0.02))
    _draw_rack(rack, data, spines=not several and data["spines"] > 0)
    if several:
        over = fig.add_axes((0.0, bottom + detail + 0.02, 1.0, top - bottom - detail - 0.03))
        box = _draw_racks(over, data)
        _enlarge(fig, over, rack, box)
    return fig


def _enlarge(fig: Figure, over: Axes, rack: Axes, box: tuple[float, float]) -> None:
    """Draw lines from the first rack's box to the drawing of what is in it."""
    from matplotlib.patches import ConnectionPatch

    for x, target in zip(box, (LEFT, RIGHT), strict=True):
        fig.add_artist(
            ConnectionPatch(
                (x, -0.42), (target, _Y["leaf"] + 0.7), over.transData, rack.transData,
                color=BLUE, linewidth=0.7, alpha=0.45, linestyle=(0, (4, 3)),
            )
        )  # fmt: skip


def _title(data: dict[str, Any]) -> str:
    racks = "1 rack" if data["racks"] == 1 else f"{data['racks']:,} racks"
    return f"{data['gpus']:,} GPUs of {data['rack']} in {racks}"


def _caption(data: dict[str, Any]) -> str:
    plural = "" if data["domains"] == 1 else "s"
    text = (
        f"{data['domains']:,} scale-up domain{plural} of {data['domain_size']} GPUs; bandwidths "
        "are nominal, of one direction. "
    )
    return text + "; ".join(_said(link) for link in data["links"]) + "."


def _said(link: dict[str, Any]) -> str:
    one, other = link["ends"]
    return (
        f"{one} to {other} {_rate(link)}, {link['latency_us']:.2f} us "
        f"({link['bandwidth']['provenance']})"
    )


def _rate(link: dict[str, Any]) -> str:
    return f"{link['bandwidth_GBps']:.4g} GB/s"


def _link(data: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(link for link in data["links"] if link["kind"] == kind)
    return found


_Line = tuple[float, float, float, float]


class _Row(NamedTuple):
    """Boxes of one row: their centres and width."""

    x: list[float]
    width: float


def _spread(count: int, left: float, right: float, fill: float = 0.8) -> _Row:
    step = (right - left) / count
    return _Row([left + (i + 0.5) * step for i in range(count)], min(fill * step, 7.0))


def _boxes(axes: Axes, row: _Row, y: float, height: float, color: str, **look: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    for x in row.x:
        axes.add_patch(
            FancyBboxPatch(
                (x - row.width / 2, y - height / 2),
                row.width,
                height,
                boxstyle=f"round,pad=0,rounding_size={min(0.16, 0.12 * row.width)}",
                **{"facecolor": color, "edgecolor": "none", "zorder": 3, **look},
            )
        )


def _lines(axes: Axes, pairs: list[_Line], color: str, **look: Any) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(
        LineCollection(
            [[(x, y), (u, v)] for x, y, u, v in pairs],
            colors=color,
            **{"linewidths": 0.6, "zorder": 1, **look},
        )
    )


def _row_name(axes: Axes, y: float, text: str, color: str) -> None:
    head, _, rest = text.partition("\n")
    axes.text(0.9, y, head, ha="left", va="center" if not rest else "bottom", fontsize=9.5,
              fontweight="bold", color=color)  # fmt: skip
    if rest:
        axes.text(0.9, y - 0.06, rest, ha="left", va="top", fontsize=8, color=MUTED)


def _note(axes: Axes, y: float, text: str) -> None:
    """Put the figures of a kind of link between the rows it joins."""
    axes.text(0.9, y, text, ha="left", va="center", fontsize=7.5, color=MUTED, style="italic")


def _bare(axes: Axes, low: float, high: float) -> None:
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(low, high)
    axes.axis("off")


def _between(lower: str, xs: list[tuple[float, float]], upper: str) -> list[_Line]:
    """Return lines from the tops of one row to the bottoms of another."""
    low, high = _Y[lower] + _HIGH[lower] / 2, _Y[upper] - _HIGH[upper] / 2
    return [(x, low, u, high) for x, u in xs]


class _Rack(NamedTuple):
    """What is drawn of the first rack, and where: x of each GPU, GPUs by host and domain."""

    x: list[float]
    step: float
    hosts: list[list[int]]
    domains: list[list[int]]


def _place(data: dict[str, Any]) -> _Rack:
    size, per_host = data["domain_size"], data["gpus_per_host"]
    domains = max(1, min(data["domains_per_rack"], MAX_GPUS // size))
    gpus = min(size, MAX_GPUS)
    units: list[float] = []
    at = 0.0
    hosts: list[list[int]] = []
    by_domain: list[list[int]] = []
    for domain in range(domains):
        at += 1.4 if domain else 0.0
        by_domain.append([])
        for local in range(gpus):
            if local % per_host == 0:
                at += 0.55 if local else 0.0
                hosts.append([])
            hosts[-1].append(len(units))
            by_domain[-1].append(len(units))
            units.append(at)
            at += 1.0
    step = (RIGHT - LEFT) / at
    return _Rack([LEFT + (u + 0.5) * step for u in units], step, hosts, by_domain)


def _draw_rack(axes: Axes, data: dict[str, Any], *, spines: bool) -> None:
    """Draw planes, GPUs in hosts, NICs and leaves of the first rack."""
    _bare(axes, -1.1, (_Y["spine"] if spines else _Y["leaf"]) + 0.8)
    rack = _place(data)
    gpus = _Row(rack.x, 0.78 * min(rack.step, 3.2))
    for domain in rack.domains:
        _draw_planes(axes, data, rack, domain)
    _draw_hosts(axes, data, rack)
    _boxes(axes, gpus, _Y["gpu"], _HIGH["gpu"], BLUE)
    nics = _Row(gpus.x, 0.62 * gpus.width)
    _boxes(axes, nics, _Y["nic"], _HIGH["nic"], GREEN)
    _lines(axes, _between("gpu", [(x, x) for x in rack.x], "nic"), GREEN, linewidths=0.9)
    leaves = _spread(data["leaves_per_rack"], LEFT, RIGHT, 0.6)
    to_leaf = [(x, leaves.x[i % len(leaves.x)]) for i, x in enumerate(rack.x)]
    _lines(axes, _between("nic", to_leaf, "leaf"), PURPLE, alpha=0.45)
    _boxes(axes, leaves, _Y["leaf"], _HIGH["leaf"], PURPLE)
    if spines:
        _draw_spines(axes, data, leaves)
    _name_rows(axes, data, rack)


def _draw_planes(axes: Axes, data: dict[str, Any], rack: _Rack, domain: list[int]) -> None:
    half = rack.step / 2
    left, right = rack.x[domain[0]] - half, rack.x[domain[-1]] + half
    planes = _spread(data["planes_per_domain"], left, right, 0.72)
    mesh = _between("plane", [(p, rack.x[g]) for g in domain for p in planes.x], "gpu")
    _lines(axes, mesh, ORANGE, alpha=max(0.09, min(0.5, 60.0 / len(mesh))), linewidths=0.5)
    # The links of one GPU stand out of the mesh.
    _lines(axes, mesh[: len(planes.x)], ORANGE, linewidths=1.0, zorder=2)
    _boxes(axes, planes, _Y["plane"], _HIGH["plane"], ORANGE)


def _draw_hosts(axes: Axes, data: dict[str, Any], rack: _Rack) -> None:
    half = rack.step / 2
    for host in rack.hosts:
        left, right = rack.x[host[0]] - half, rack.x[host[-1]] + half
        frame = _Row([(left + right) / 2], right - left)
        _boxes(
            axes, frame, (_Y["gpu"] + _Y["nic"]) / 2, 2.65, "#F6F6F6",
            edgecolor=FAINT, linewidth=0.8, zorder=0,
        )  # fmt: skip


def _draw_spines(axes: Axes, data: dict[str, Any], leaves: _Row) -> None:
    spines = _spread(data["spines"], LEFT, RIGHT, 0.6)
    pairs = [(x, spine) for x in leaves.x for spine in spines.x]
    _lines(axes, _between("leaf", pairs, "spine"), VERMILION, alpha=0.35)
    _boxes(axes, spines, _Y["spine"], _HIGH["spine"], VERMILION)
    _row_name(axes, _Y["spine"], f"{data['spines']} spines", VERMILION)
    _note(axes, (_Y["leaf"] + _Y["spine"]) / 2, f"{_rate(_link(data, 'uplink'))} each")


def _name_rows(axes: Axes, data: dict[str, Any], rack: _Rack) -> None:
    planes, up = data["planes_per_domain"], _link(data, "scale_up")
    domains = len(rack.domains)
    number = f"{planes} planes" if domains == 1 else f"{domains} x {planes} planes"
    _row_name(axes, _Y["plane"], f"{number}\nof switches", ORANGE)
    total = planes * up["bandwidth_GBps"]
    text = f"{planes} x {_rate(up)}\n= {total:.4g} GB/s a GPU"
    _note(axes, (_Y["plane"] + _Y["gpu"]) / 2, text)
    _row_name(axes, _Y["gpu"], f"{len(rack.x)} GPUs", BLUE)
    _row_name(axes, _Y["nic"], f"{len(rack.x)} NICs", GREEN)
    host, pcie = (_rate(_link(data, kind)) for kind in ("host", "pcie"))
    text = f"through {len(rack.hosts)} hosts,\n{host} and\n{pcie} each"
    _note(axes, (_Y["gpu"] + _Y["nic"]) / 2, text)
    leaves = data["leaves_per_rack"]
    _row_name(axes, _Y["leaf"], f"{leaves} {'leaf' if leaves == 1 else 'leaves'}", PURPLE)
    _note(axes, (_Y["nic"] + _Y["leaf"]) / 2, f"{_rate(_link(data, 'nic'))} each")
    shown, whole = len(rack.x), min(data["domains_per_rack"], data["domains"]) * data["domain_size"]
    what = "One rack" if data["racks"] > 1 else "The rack"
    part = "" if shown == whole else f": the first {shown} of its {whole} GPUs"
    axes.text(
        LEFT, -0.6, f"{what}{part}. Grey frames are hosts; dark lines are the links of one GPU.",
        fontsize=8, color=MUTED, ha="left", va="top",
    )  # fmt: skip


def _draw_racks(axes: Axes, data: dict[str, Any]) -> tuple[float, float]:
    """Draw every rack as a box with its leaves, under the spines; return the first one's sides."""
    _bare(axes, -0.9, 4.2)
    shown = min(data["racks"], MAX_RACKS)
    racks = _spread(shown, LEFT, RIGHT, 0.82)
    spines = _spread(data["spines"], LEFT, RIGHT, 0.55)
    leaves_per_rack = data["leaves_per_rack"]
    leaf_x: list[float] = []
    for x in racks.x:
        leaf_x += _spread(leaves_per_rack, x - racks.width / 2, x + racks.width / 2).x
    leaves = _Row(leaf_x, 0.7 * racks.width / leaves_per_rack)
    pairs = [(x, 1.6, s, 3.35) for x in leaf_x for s in spines.x]
    _lines(axes, pairs, VERMILION, alpha=max(0.05, min(0.4, 60.0 / len(pairs))), linewidths=0.5)
    _lines(axes, pairs[: leaves_per_rack * len(spines.x)], VERMILION, alpha=0.8, linewidths=0.8)
    _boxes(axes, spines, 3.6, 0.5, VERMILION)
    _boxes(axes, leaves, 1.45, 0.3, PURPLE)
    _boxes(axes, racks, 0.35, 1.5, "#EAF2F8", edgecolor=BLUE, linewidth=0.8, zorder=2)
    in_rack = data["domains_per_rack"] * data["domain_size"]
    for index, x in enumerate(racks.x):
        last = index == data["racks"] - 1
        gpus = data["gpus"] - in_rack * (data["racks"] - 1) if last else in_rack
        size = 8 if racks.width > 1.9 else 6.5
        axes.text(x, 0.35, f"{gpus}", fontsize=size, color=INK, ha="center", va="center", zorder=4)
    _row_name(axes, 3.6, f"{data['spines']} spines", VERMILION)
    _note(axes, 2.5, f"{_rate(_link(data, 'uplink'))} each,\n{data['oversubscription']:g}:1")
    _row_name(axes, 1.45, f"{data['leaves']:,} leaves", PURPLE)
    _row_name(axes, 0.35, f"{data['racks']:,} racks\nGPUs of each", BLUE)
    if shown < data["racks"]:
        axes.text(RIGHT, -0.5, f"the first {shown} of {data['racks']:,} racks", fontsize=8,
                  color=MUTED, ha="right", va="top")  # fmt: skip
    return racks.x[0] - racks.width / 2, racks.x[0] + racks.width / 2
