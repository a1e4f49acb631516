"""``ultraep-sim plan``: one load matrix, one plan."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ultraep_sim.commands.console import given_path, note, print_json, print_renderable
from ultraep_sim.errors import InputError, LayoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ultraep_sim.planning import EPLayout, Plan
    from ultraep_sim.policies.base import Policy

EPILOG = """\
\b
Examples:
  ultraep-sim plan loads.npy --ranks 64 --slots 2
  ultraep-sim plan loads.npy --ranks 64 --slots 2 --domain 8 --policy eplb_plus --json
  ultraep-sim plan loads.npy --ranks 64 --slots 2 --placement map.json --format vllm-ascend
"""

# Parameter of the library: what it is called here, and what to do if the library does not say.
OPTIONS = {
    "num_experts": ("experts", "give the experts of one layer"),
    "num_ranks": ("--ranks", "give a whole number from 1"),
    "slots_per_rank": ("--slots", "give a whole number from 0"),
    "domain_size": ("--domain", "give 1 to the number of ranks"),
    "policy": ("--policy", "list them with ultraep-sim policies"),
    "target": ("--target", "give a number from 1.0"),
}
WARM_CALLS = 3  # timed after the first, which compiles
NO_SOLVING = ("none", "ideal")  # nothing to time: one does nothing, no machine can run the other
HINDSIGHT = (
    "hindsight: {policy} places before it knows the loads; here it was given these very loads as "
    "its history, the best it could ever know. `ultraep-sim run` replays it on real history"
)


def plan(
    loads: Annotated[
        str,
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
    placement: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the placement for a serving system here."),
    ] = None,
    placement_format: Annotated[
        str, typer.Option("--format", help="Of --placement: vllm-ascend or tensorrt-llm.")
    ] = "vllm-ascend",
    layer: Annotated[int, typer.Option(help="Layer that --placement names.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Plan replicas and quotas for one load matrix.

    The load file is checked first: anything that is not a matrix of counts is refused with a line
    that says where and why.
    """
    path = given_path(loads, "LOADS", "name an .npy file")
    options: dict[str, Any] = {} if target is None else {"target": target}
    write = _placement_writer(placement, placement_format, layer)
    try:
        planned = _make_plan(path, ranks, slots, domain, policy, options)
    except InputError as error:
        raise _named_as_option(error) from error
    data = plan_data(planned)
    if placement is not None:
        write({layer: planned.plan}, placement)
        note(f"wrote {placement}")
    said = "" if planned.policy.exact else HINDSIGHT.format(policy=policy)
    if as_json:
        print_json(data)
        if said:
            note(said)
    else:
        _show(planned, data, options, said)


def _placement_writer(
    out: Path | None, name: str, layer: int
) -> Callable[[dict[int, Plan], Path], Path]:
    """Return what writes a placement, refusing wrong options before anything is planned."""
    from ultraep_sim.commands.trace_options import check_out
    from ultraep_sim.trace.formats import tensorrt_llm, vllm_ascend

    writers: dict[str, Callable[[dict[int, Plan], Path], Path]] = {
        module.NAME: module.write_placement for module in (vllm_ascend, tensorrt_llm)
    }
    if name not in writers:
        remedy = f"use {' or '.join(writers)}"
        raise InputError("no such placement", place="--format", value=name, remedy=remedy)
    if layer < 0:
        raise InputError("is no layer", place="--layer", value=layer, remedy="count from 0")
    if out is not None:
        check_out(out)
    return writers[name]


class _Planned(NamedTuple):
    """A plan, the policy that made it, and what the command line and the file asked for."""

    plan: Plan
    name: str  # as typed: an alias stays one
    policy: Policy
    asked: EPLayout
    kernel_timed: bool  # whether solve_us is the kernel's; else the whole call's
    before: NDArray[np.int64]  # rank loads of the file with every expert at home, int64 [ranks]


def _make_plan(
    path: Path, ranks: int, slots: int, domain: int | None, name: str, options: dict[str, Any]
) -> _Planned:
    import numpy as np

    from ultraep_sim.commands.loads_file import read_loads
    from ultraep_sim.planning import EPLayout, check_loads
    from ultraep_sim.policies import get_policy

    array = read_loads(path)
    check_loads(array, file=path)
    experts = array.shape[-1]
    if slots > experts:
        raise LayoutError(
            f"more redundant slots a rank than the {experts} experts of this file",
            file=path,
            place="--slots",
            value=slots,
            remedy=f"give 0 to {experts}",
        )
    try:
        layout = EPLayout(ranks, experts, slots, domain)
    except LayoutError as error:  # the file gives the experts, so it is part of what is wrong
        raise error.at(file=path) from error
    matrix = check_loads(array, layout, file=path)
    policy = get_policy(name, layout, **options)
    made, kernel_timed = _plan_warm(matrix, layout, policy)
    made.validate(None if made.forced else matrix)
    before = np.zeros(ranks, np.int64)
    np.add.at(before, layout.home, matrix.sum(axis=0))
    return _Planned(made, name, policy, layout, kernel_timed, before)


def _plan_warm(matrix: NDArray[np.int64], layout: EPLayout, policy: Policy) -> tuple[Plan, bool]:
    """Plan with the best time of some warm calls; whether that is the kernel's own.

    A policy that does not time its kernel is given the time of the whole call.
    """
    from ultraep_sim.policies.api import plan as make_plan

    made = make_plan(matrix, layout, policy)  # compiles
    if policy.name in NO_SOLVING:
        return replace(made, solve_us=0.0), True
    times = []
    for _ in range(WARM_CALLS):
        begin = time.perf_counter_ns()
        made = make_plan(matrix, layout, policy)
        whole = (time.perf_counter_ns() - begin) / 1e3
        times.append(whole if made.solve_us is None else made.solve_us)
    return replace(made, solve_us=min(times)), made.solve_us is not None


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


def plan_data(planned: _Planned) -> dict[str, Any]:
    """Return the JSON contract of ``plan --json``."""
    plan, before = planned.plan, planned.before
    return {
        "policy": planned.name,
        # Of the file's loads: a forced plan carries balanced ones.
        "imbalance_before": float(before.max() / before.mean()),
        "imbalance_after": plan.imbalance,
        "replicas": plan.num_replicas,
        "max_fanout": plan.max_fanout,
        "remote_fraction": plan.remote_fraction,
        "solve_us": plan.solve_us,
        "rank_loads": plan.rank_loads.tolist(),
    }


def _show(planned: _Planned, data: dict[str, Any], options: dict[str, Any], said: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    plan, before = planned.plan, planned.before
    layout, asked = plan.layout, planned.asked.slots_per_rank
    slots = f"{layout.slots_per_rank} slots a rank"
    if layout.slots_per_rank != asked:
        slots += f" (asked {asked}, takes {layout.slots_per_rank})"
    title = (
        f"{data['policy']} on {layout.num_ranks} ranks, {layout.num_experts} experts, "
        f"{slots}, domains of {layout.domain}"
        + "".join(f", {key} {value}" for key, value in options.items())
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("", "before", "after"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    after = plan.rank_loads
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
    caption = [Text(text) for text in (_time_said(planned), said) if text]
    print_renderable(Text(title, style="bold"), table, *caption)


def _time_said(planned: _Planned) -> str:
    if planned.policy.name in NO_SOLVING:
        return ""
    verb, what = ("solved", "") if planned.kernel_timed else ("planned", " (whole call)")
    return f"{verb} in {planned.plan.solve_us:.1f} us{what} on this machine, best of {WARM_CALLS}"
