"""The planner arena: every policy on the same loads, beside the bounds.

A policy that places by history is given *hindsight*: the loads at hand as all its history, the
best it could ever know. Its rows say so, and its label does.

Replicas are only comparable at the same max rank load. Where a policy with an option ``target``
balances better than the published planner, it is asked once more for what that one reached: the
``at_baseline_tau`` of its row.

A policy plans at the slots it is offered. One that binds itself to a layout with more slots is
*not applicable* at those, and gets a second row at the slots it needs, with the difference named:
that memory is part of its price.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PlanError, PolicyError
from ..planning import EPLayout, Plan
from ..planning.bounds import counting_lower_bound, replica_lower_bound, tau_lower_bound
from ..policies import Policy, PolicyState, available_policies, get_policy
from .draws import Shape
from .families import SHAPES, Case, cases

OK, NOT_APPLICABLE, MORE_SLOTS = "ok", "not applicable", "more slots"
BASELINE = "ultraep"
EQUAL_TAU = 0.002
"""Largest difference in imbalance at which two plans count as reaching the same tau."""

REPEATS = 3  # the fastest solve counts: what else runs on the machine only ever adds time

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Contender:
    """A policy with options, and the name it goes by in the tables."""

    label: str
    policy: str
    options: dict[str, Any] = field(default_factory=dict)
    hindsight: bool = False


def contenders(names: Iterable[str] | None = None) -> list[Contender]:
    """Return every registered policy under its own name; aliases do not enter twice.

    A policy with an option ``effort`` enters once for each effort.

    Parameters
    ----------
    names : iterable of str, optional
        Only these; ``ultraep`` is always added, as everything is compared with it.

    Raises
    ------
    PolicyError
        If a name is unknown.
    """
    known = available_policies()
    wanted = [name for name, cls in known.items() if cls.name == name]
    if names is not None:
        wanted = list(dict.fromkeys([*names, BASELINE]))
    out = []
    for name in wanted:
        if name not in known:
            raise PolicyError(
                "unknown policy", place="policy", value=name,
                remedy=f"choose from {', '.join(known)}",
            )  # fmt: skip
        efforts = (
            ("fast", "thorough") if "effort" in inspect.signature(known[name]).parameters else ()
        )
        if known[name].exact:
            out += [Contender(f"{name}-{effort}", name, {"effort": effort}) for effort in efforts]
            out += [Contender(name, name)] if not efforts else []
        else:
            out.append(Contender(f"{name} (hindsight)", name, hindsight=True))
    return out


def run_arena(
    *,
    policies: Iterable[str] | None = None,
    shapes: Iterable[Shape] = SHAPES,
    seeds: int = 3,
    seed: int = 0,
    traces: Path | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Plan every case with every contender.

    Parameters
    ----------
    policies : iterable of str, optional
        Default: all, see `contenders`.
    shapes : iterable of Shape
    seeds : int
        Draws of each family.
    seed : int
        Root of the random streams.
    traces : Path, optional
        Folder of recorded traces.
    progress : callable, optional
        Called with a name, what is done, and the total.

    Returns
    -------
    list of dict
        One row a case and contender, two where a policy needs more slots; see `measure`.

    Raises
    ------
    PlanError
        If a policy makes a plan that is not valid or that beats a proven bound.
    """
    rivals = contenders(policies)
    rows: list[Row] = []
    for shape in shapes:
        layout = shape.layout()
        bound = [(rival, _bind(rival, layout)) for rival in rivals]
        todo = list(cases(shape, seeds=seeds, seed=seed, traces=traces))
        name = f"{shape.experts} experts, {shape.ranks} ranks, {shape.slots} slots"
        for done, case in enumerate(todo):
            here = [row for rival, policy in bound for row in _rows(case, rival, policy)]
            _match_baseline(case, {rival.label: rival for rival in rivals}, here)
            rows += here
            if progress is not None:
                progress(name, done + 1, len(todo))
    return rows


def _bind(rival: Contender, layout: EPLayout) -> Policy | str:
    """Return the policy for this layout, or why there is none."""
    try:
        return get_policy(rival.policy, layout, **rival.options)
    except PolicyError as error:
        return str(error)


def _rows(case: Case, rival: Contender, policy: Policy | str) -> Iterator[Row]:
    if isinstance(policy, str):
        yield _empty(case, rival) | {"status": NOT_APPLICABLE, "reason": policy}
        return
    extra = policy.layout.slots_per_rank - case.shape.slots
    if extra > 0:
        reason = f"needs {policy.layout.slots_per_rank} slots a rank"
        yield _empty(case, rival) | {"status": NOT_APPLICABLE, "reason": reason}
    status = MORE_SLOTS if extra > 0 else OK
    yield _empty(case, rival) | measure(case, policy) | {"status": status}


def _empty(case: Case, rival: Contender) -> Row:
    return {
        "family": case.family,
        "index": case.index,
        "experts": case.shape.experts,
        "ranks": case.shape.ranks,
        "slots": case.shape.slots,
        "slots_needed": case.shape.slots,
        "extra_slots": 0,
        "policy": rival.label,
        "hindsight": rival.hindsight,
        "imbalance": None,
        "imbalance_before": None,
        "replicas": None,
        "max_fanout": None,
        "max_home_sends": None,
        "remote_fraction": None,
        "solve_us": None,
        "replica_lower_bound": None,
        "counting_lower_bound": None,
        "tau_lower_bound": None,
        "at_baseline_tau": None,
        "reason": None,
    }


def _match_baseline(case: Case, rivals: dict[str, Contender], rows: list[Row]) -> None:
    """Plan again, at the baseline's max rank load, what balanced better; fill in the rows."""
    base = next(row for row in rows if row["policy"] == BASELINE)
    for row in rows:
        rival = rivals[row["policy"]]
        takes_target = "target" in inspect.signature(available_policies()[rival.policy]).parameters
        if row["status"] != OK or rival.hindsight or not takes_target:
            continue
        if row["imbalance"] < base["imbalance"] - EQUAL_TAU:
            target = math.ceil(base["imbalance"] * 10_000) / 10_000
            policy = get_policy(
                rival.policy, case.shape.layout(), **{**rival.options, "target": target}
            )
            row["at_baseline_tau"] = _numbers(case, policy.plan(case.loads, policy.new_state()))


def measure(case: Case, policy: Policy) -> Row:
    """Plan one case and take the numbers of the plan.

    Returns
    -------
    dict
        ``imbalance`` (max over mean rank load), ``replicas``, ``max_fanout``, ``max_home_sends``
        (most replicas sent by one home rank), ``remote_fraction``, ``solve_us`` (measured here,
        the fastest of a few; None for a policy without a kernel), and the bounds that no plan of
        this kind beats: ``tau_lower_bound`` as an imbalance; at the max rank load this plan
        reached ``replica_lower_bound``, and the weaker ``counting_lower_bound`` of the literature.
        None where they do not speak of such a plan: mains that move or keep no token, a forced
        balance.
    """
    plan = policy.plan(case.loads, _state(policy, case))
    repeats = range(REPEATS if plan.solve_us is not None else 0)
    again = [policy.plan(case.loads, _state(policy, case)).solve_us for _ in repeats]
    return {
        "slots_needed": policy.layout.slots_per_rank,
        "extra_slots": max(0, policy.layout.slots_per_rank - case.shape.slots),
        "imbalance_before": _before(case),
        "solve_us": min((t for t in again if t is not None), default=None),
        **_numbers(case, plan),
    }


def _numbers(case: Case, plan: Plan) -> Row:
    plan.validate(case.loads)
    return {
        "imbalance": plan.imbalance,
        "replicas": plan.num_replicas,
        "max_fanout": plan.max_fanout,
        "max_home_sends": int(plan.sends_per_rank.max()),
        "remote_fraction": plan.remote_fraction,
        "replica_lower_bound": None,
        "counting_lower_bound": None,
        "tau_lower_bound": None,
        **_bounds(case, plan),
    }


def _before(case: Case) -> float:
    """Max over mean rank load with every expert at home (a forced balance changes the loads)."""
    layout, total = case.shape.layout(), case.loads.sum(axis=0)
    by_home = np.bincount(layout.home, total, minlength=layout.num_ranks)
    return float(by_home.max() / by_home.mean()) if total.any() else 1.0


def _state(policy: Policy, case: Case) -> PolicyState:
    """Return a first state that knows the loads at hand, for those who may look at it."""
    state = policy.new_state()
    if policy.exact:
        return state
    total = case.loads.sum(axis=0)
    state.previous, state.layer_before = total, total
    if policy.cadence_steps is not None:
        state.history.add(-1, total)
        state.since = -policy.cadence_steps  # due for a placement now
    return state


def _bounds(case: Case, plan: Plan) -> Row:
    total = plan.loads.sum(axis=0)
    keeps_a_token = bool((plan.quota[plan.offsets[:-1]][total > 0] > 0).all())
    if plan.forced or plan.moves_mains or not keeps_a_token:
        return {}
    layout = plan.layout
    if plan.may_cross:
        layout = EPLayout(
            layout.num_ranks, layout.num_experts, layout.slots_per_rank, None, layout.home
        )
    tau, least = int(plan.rank_loads.max()), tau_lower_bound(total, layout)
    fewest = replica_lower_bound(total, layout, tau) if tau >= least else 0
    used = int(np.count_nonzero(plan.quota[plan.is_replica]))
    if tau < least or used < fewest:
        raise PlanError(
            f"policy {plan.policy} on {case.family} {case.index}: max rank load {tau} with {used} "
            f"replicas is below the proven bounds {least} and {fewest}"
        )
    mean = float(total.sum()) / layout.num_ranks
    return {
        "tau_lower_bound": least / mean if mean else 1.0,
        "replica_lower_bound": fewest,
        "counting_lower_bound": counting_lower_bound(total, layout, tau),
    }
