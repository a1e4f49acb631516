"""``ultraep-sim topology``: the fabric of a scenario, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import given_path, note, print_json, print_renderable
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from ultraep_sim.scenario import Scenario

EPILOG = """\
\b
Examples:
  ultraep-sim topology scenarios/quickstart.yaml --plot fabric.png
  ultraep-sim topology scenarios/quickstart.yaml --set topology.preset=paper-40-racks
  ultraep-sim topology scenarios/quickstart.yaml --json | jq '.links[] | {kind, bandwidth_GBps}'
"""

_NAMES = {
    "scale_up": "scale-up",
    "host": "host",
    "pcie": "PCIe",
    "nic": "scale-out",
    "uplink": "uplink",
}


def topology(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="YAML file.")],
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw the fabric into this .png or .svg."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change a value of the scenario, for example topology.domains=4. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Show the fabric of a scenario.

    GPUs, switch planes, hosts, NICs, leaves and spines, with bandwidth, latency and provenance of
    every kind of link, and where the expert-parallel groups lie.
    """
    from ultraep_sim.scenario import load_scenario

    path = given_path(scenario, "SCENARIO", "name a YAML file")
    target = None if plot is None else _picture_path(plot)
    chosen = load_scenario(path, sets or ())
    try:
        data = topology_data(chosen)
    except InputError as error:
        raise error.at(file=path) from error
    if target is not None:
        _draw(data, target)
    if as_json:
        print_json(data)
    else:
        _show(data)
    if target is not None:
        note(f"wrote {target}")


def topology_data(scenario: Scenario) -> dict[str, Any]:
    """Return the JSON contract of ``topology --json``: the fabric, and the groups on it."""
    from ultraep_sim.fabric.groups import place_groups, spares
    from ultraep_sim.fabric.topology_summary import summarise
    from ultraep_sim.scenario.topology import topology_of

    fabric, ep = topology_of(scenario), scenario.ep
    groups = ep.pipeline_stages * ep.data_parallel
    placed = place_groups(fabric, groups, ep.ranks)
    return {
        "scenario": scenario.name,
        **summarise(fabric),
        "groups": {
            "count": groups,
            "ranks": ep.ranks,
            "first_gpus": placed[:, 0].tolist(),
            "spares": spares(fabric, placed).tolist(),
        },
    }


def _picture_path(text: str) -> Path:
    path = given_path(text, "--plot", "name a .png or .svg file")
    if path.suffix not in (".png", ".svg"):
        raise InputError(
            "a picture is a .png or an .svg",
            place="--plot",
            value=text,
            remedy="name a file that ends so",
        )
    if path.is_dir():
        raise InputError("this is a directory", place="--plot", value=text, remedy="name a file")
    return path


def _draw(data: dict[str, Any], path: Path) -> None:
    from ultraep_sim.report.plot_topology import write

    path.parent.mkdir(parents=True, exist_ok=True)
    write(data, path)


def _show(data: dict[str, Any]) -> None:
    from rich.text import Text

    print_renderable(
        Text(_title(data), style="bold"),
        _counts(data),
        _links(data),
        *(Text(line) for line in _sources(data)),
    )


def _title(data: dict[str, Any]) -> str:
    groups, spare = data["groups"], len(data["groups"]["spares"])
    return (
        f"{data['scenario']}: {data['gpus']:,} GPUs of {data['rack']} in "
        f"{_several(data['racks'], 'rack')}; {_several(groups['count'], 'group')} of "
        f"{groups['ranks']} ranks, {_several(spare, 'GPU')} spare"
    )


def _several(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _counts(data: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    bisection = data["bisection_GBps"]
    fabric = bisection["fabric"]
    rows = (
        ("scale-up domains", data["domains"], f"of {data['domain_size']} GPUs"),
        ("switch planes", data["planes_per_domain"], f"a domain, {data['striping']} striping"),
        ("hosts", data["hosts"], f"of {data['gpus_per_host']} GPUs, a NIC each"),
        ("leaf switches", data["leaves"], f"{data['leaves_per_rack']} a rack"),
        ("spine switches", data["spines"], f"oversubscribed {data['oversubscription']:g}:1"),
        ("bisection of a domain", bisection["domain"], "GB/s one way, nominal"),
        ("bisection across domains", "-" if fabric is None else fabric, "GB/s one way, nominal"),
    )
    for name, value, what in rows:
        shown = value if isinstance(value, str) else f"{value:,.0f}"
        table.add_row(name, shown, "" if value == "-" else what)
    return table


def _links(data: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads = (
        "link",
        "between",
        "links",
        "GB/s one way",
        "achieved",
        "latency [us]",
        "known by (each)",
    )
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if 2 <= index <= 5 else "left", no_wrap=True)
    for link in data["links"]:
        known = [link[key]["provenance"] for key in ("bandwidth", "achieved", "latency")]
        table.add_row(
            _NAMES[link["kind"]],
            " - ".join(link["ends"]),
            f"{link['count']:,}",
            f"{link['bandwidth_GBps']:.4g}",
            f"{link['achieved_GBps']:.4g}",
            f"{link['latency_us']:.3f}",
            ", ".join(known) if len(set(known)) > 1 else known[0],
        )
    return table


def _sources(data: dict[str, Any]) -> list[str]:
    """Say where each number comes from, once for all that come from one place."""
    said: dict[str, dict[str, None]] = {}
    for link in data["links"]:
        for what in ("bandwidth", "achieved", "latency"):
            # How many links of a way share a figure is arithmetic, not a source.
            source = link[what]["source"].partition("; over ")[0]
            said.setdefault(source, {})[f"{_NAMES[link['kind']]} {what}"] = None
    return [f"{', '.join(names)}: {source}" for source, names in said.items()]
