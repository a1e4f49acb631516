"""``ultraep-sim plan``: one load matrix, one plan."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import print_json, print_renderable
from ultraep_sim.errors import InputError, LayoutError

if TYPE_CHECKING:
    from ultraep_sim.planning import Plan

EPILOG = """\
\b
Examples:
  ultraep-sim plan loads.npy --ranks 64 --slots 2
  ultraep-sim plan loads.npy --ranks 64 --slots 2 --domain 8 --policy eplb_plus --json
"""

# Parameter of the library: what it is called here, and what to do if the library does not say.
OPTIONS = {
    "num_ranks": ("--ranks", "give a whole number from 1"),
    "slots_per_rank": ("--slots", "give a whole number from 0"),
    "domain_size": ("--domain", "give 1 to the number of ranks"),
    "policy": ("--policy", "list them with ultraep-sim policies"),
    "target": ("--target", "give a number from 1.0"),
}


def plan(
    loads: Annotated[
        Path,
        typer.Argument(
            metavar="LOADS",
            help="Integer .npy of shape [experts] or [source ranks, experts]: (token, expert) "
            "pairs of one layer and micro-batch.",
        ),
    ],
    ranks: Annotated[int, typer.Option(help="Ranks of the expert-parallel group.")],
    slots: Annotated[int, typer.Option(help="Redundant slots a rank.")],
    domain: Annotated[
        int | None,
        typer.Option(help="Ranks of one scale-up domain; replicas stay inside. [default: all]"),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Balancing policy; list them with ultraep-sim policies.")
    ] = "ultraep",
    target: Annotated[
        float | None,
        typer.Option(
            help="Max over mean rank load to aim at, for policies that take one. [default: 1.01]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Plan replicas and quotas for one load matrix.

    The load file is checked first: anything that is not a matrix of counts is refused with a line
    that says where and why.
    """
    try:
        made, options = _make_plan(loads, ranks, slots, domain, policy, target)
    except InputError as error:
        raise _named_as_option(error) from error
    data = plan_data(made, policy)
    if as_json:
        print_json(data)
    else:
        _show(made, data, options)


def _make_plan(
    path: Path, ranks: int, slots: int, domain: int | None, policy: str, target: float | None
) -> tuple[Plan, dict[str, Any]]:
    from ultraep_sim.commands.loads_file import read_loads
    from ultraep_sim.planning import EPLayout, check_loads
    from ultraep_sim.policies.api import plan as make_plan

    array = read_loads(path)
    check_loads(array, file=path)
    experts = array.shape[-1]
    if slots > experts:
        raise LayoutError(
            f"more redundant slots a rank than the {experts} experts of {path}",
            place="--slots",
            value=slots,
            remedy=f"give 0 to {experts}",
        )
    layout = EPLayout(ranks, experts, slots, domain)
    matrix = check_loads(array, layout, file=path)
    options: dict[str, Any] = {} if target is None else {"target": target}
    make_plan(matrix, layout, policy, **options)  # compiles, so that solve_us does not count it
    begin = time.perf_counter_ns()
    made = make_plan(matrix, layout, policy, **options)
    if made.solve_us is None:  # the policy does not time its kernel: tell the whole call
        made = replace(made, solve_us=(time.perf_counter_ns() - begin) / 1e3)
    made.validate(None if made.forced else matrix)
    return made, options


def _named_as_option(error: InputError) -> InputError:
    """Name the option a person typed where the error names the parameter behind it."""
    if error.place not in OPTIONS:
        return error
    option, remedy = OPTIONS[error.place]
    return type(error)(
        error.problem,
        file=error.file,
        place=option,
        value=error.value,
        remedy=error.remedy or remedy,
    )


def plan_data(plan: Plan, policy: str) -> dict[str, Any]:
    """Return the JSON contract of ``plan --json``."""
    return {
        "policy": policy,
        "imbalance_before": plan.imbalance_before,
        "imbalance_after": plan.imbalance,
        "replicas": plan.num_replicas,
        "max_fanout": plan.max_fanout,
        "remote_fraction": plan.remote_fraction,
        "solve_us": plan.solve_us,
        "rank_loads": plan.rank_loads.tolist(),
    }


def _show(plan: Plan, data: dict[str, Any], options: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    layout = plan.layout
    title = (
        f"{data['policy']} on {layout.num_ranks} ranks, {layout.num_experts} experts, "
        f"{layout.slots_per_rank} slots a rank, domains of {layout.domain}"
        + "".join(f", {key} {value}" for key, value in options.items())
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("", "before", "after"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    before, after = plan.rank_loads_before, plan.rank_loads
    rows = (
        (
            "imbalance [max/mean]",
            f"{data['imbalance_before']:.4f}",
            f"{data['imbalance_after']:.4f}",
        ),
        ("largest rank load [pairs]", f"{before.max():,}", f"{after.max():,}"),
        ("smallest rank load [pairs]", f"{before.min():,}", f"{after.min():,}"),
        ("replicas", "0", f"{data['replicas']:,} of {layout.num_ranks * layout.slots_per_rank:,}"),
        ("most replicas of one expert", "0", f"{data['max_fanout']:,}"),
        ("pairs leaving their rank [%]", "", f"{100 * data['remote_fraction']:.1f}"),
    )
    for row in rows:
        table.add_row(*row)
    caption = Text(f"solved in {data['solve_us']:.1f} us on this machine")
    print_renderable(Text(title, style="bold"), table, caption)
