"""The contract, check by check, on loads that are given: each raises when a policy breaks it.

The tests beside this file call them with loads of every kind; `test_suite_catches.py` calls them
with policies that break the contract on purpose.
"""

import inspect
import json
import re
from typing import get_args

import numpy as np
import pytest

from ultraep_sim.errors import InputError, PolicyError
from ultraep_sim.planning import check_loads
from ultraep_sim.policies import DecisionPrice, PolicyState
from ultraep_sim.policies.base import Transport

from .subject import plans, signature, walk


def check_plan(policy, plan, loads):
    """One plan: valid, of this policy, within its slots and its promises."""
    plan.validate(loads)
    assert plan.policy == policy.name, "Plan.policy names who made it"
    assert plan.layout == policy.layout, "the plan is bound to another layout than the policy"
    if not policy.moves_mains:
        assert not plan.moves_mains, "the plan moves mains, the class says it does not"
    if not policy.may_cross and not plan.forced:
        assert not plan.may_cross, "the plan may cross domains, the policy says it may not"
    if policy.never_worse:
        mean = -(-int(plan.loads.sum()) // policy.layout.num_ranks)
        assert plan.rank_loads.max() <= max(int(plan.rank_loads_before.max()), mean), "worse"
    if plan.tau is not None:
        assert plan.rank_loads.max() <= plan.tau, "a rank is above the plan's own tau"
    if plan.solve_us is not None:
        assert plan.solve_us >= 0
    if plan.num_replicas and not plan.forced and not plan.moves_mains:
        assert policy.price().transport != "none", "replicas need a transport"


def check_json(plan):
    """A plan survives JSON, and its numbers can be built again from it."""
    data = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    rank_loads = np.bincount(data["rank"], data["quota"], minlength=data["num_ranks"])
    assert rank_loads.tolist() == data["rank_loads"] == plan.rank_loads.tolist()
    quota = np.bincount(data["expert"], data["quota"], minlength=data["num_experts"])
    assert quota.tolist() == plan.loads.sum(axis=0).tolist()
    assert "\n" not in str(plan)


def check_layout(policy, asked):
    """A policy may bind itself to more slots, to nothing else."""
    bound = policy.layout
    assert bound.slots_per_rank >= asked.slots_per_rank, "fewer slots than offered"
    same = (bound.num_ranks, bound.num_experts, bound.domain)
    assert same == (asked.num_ranks, asked.num_experts, asked.domain)
    assert bound.home.tolist() == asked.home.tolist()


def check_loads_untouched(policy, loads):
    """Loads belong to the caller: a policy works on arrays it may not write."""
    frozen = check_loads(loads).copy()
    before = frozen.tolist()
    frozen.setflags(write=False)
    policy.plan(frozen, policy.new_state())
    assert frozen.tolist() == before


def check_deterministic(subject, layout, batches):
    """Invariant 8, and no memory outside the state: a used policy plans as a new one does."""
    fresh = [signature(plan) for plan in plans(subject.bind(layout), batches)]
    used = subject.bind(layout)
    plans(used, batches[::-1])
    assert [signature(plan) for plan in plans(used, batches)] == fresh, "it remembers other layers"
    again = [signature(plan) for plan in plans(subject.bind(layout), batches)]
    assert again == fresh, "the same loads gave another plan"


def check_layers_apart(subject, layout, batches, others):
    """Two layers planned in turn by one policy object do not see each other."""
    policy = subject.bind(layout)
    states = [policy.new_state(0), policy.new_state(1)]
    turns = []
    for step, pair in enumerate(zip(batches, others, strict=True)):
        for state, loads in zip(states, pair, strict=True):
            state.step, state.moved = step, None
            turns.append(signature(policy.plan(loads, state)))
            state.previous = loads.sum(axis=0)
            if policy.cadence_steps is not None:
                state.history.add(step, state.previous)
    alone = [[signature(p) for p in plans(subject.bind(layout), b)] for b in (batches, others)]
    assert turns[0::2] == alone[0], "the second layer changed the first"
    assert turns[1::2] == alone[1], "the first layer changed the second"


def check_plans_last(subject, layout, batches):
    """A plan keeps its numbers when the policy goes on: no workspace shows through."""
    policy = subject.bind(layout)
    state = policy.new_state()
    made = []
    for step, loads in enumerate(batches):
        state.step, state.moved = step, None
        plan = policy.plan(loads, state)
        made.append((plan, signature(plan)))
        state.previous = loads.sum(axis=0)
        if policy.cadence_steps is not None:
            state.history.add(step, state.previous)
    for plan, then in made:
        assert signature(plan) == then, "a later plan overwrote an earlier one"


def check_blind_to_the_future(subject, layout, batches, changed, at):
    """Invariant 9: what comes from ``at`` on changes no plan before it, nor a blind placement."""
    assert all(np.array_equal(a, b) for a, b in zip(batches[:at], changed[:at], strict=True))
    was, now = (plans(subject.bind(layout), b) for b in (batches, changed))
    for step in range(at):
        assert signature(was[step]) == signature(now[step]), f"step {step} knew of step {at}"
    if not subject.cls.exact and at < len(batches):
        # Where instances are is decided before the batch itself is seen.
        assert was[at].offsets.tolist() == now[at].offsets.tolist(), "placed by the unseen load"
        assert was[at].rank.tolist() == now[at].rank.tolist(), "placed by the unseen load"


def check_moved(subject, layout, batches):
    """Weights that move by re-planning are booked: every expert a rank holds and did not before.

    What the first plan holds is loaded with the model and costs nothing here.
    """
    policy = subject.bind(layout)
    held = None
    for step, (plan, moved) in enumerate(walk(policy, batches)):
        now = _held(plan.expert, plan.rank, layout)
        booked = np.zeros(layout.num_ranks, int) if moved is None else moved
        assert booked.shape == (layout.num_ranks,)
        assert (booked >= 0).all()
        if policy.price().transport == "migrate" and held is not None:
            arrived = (now & ~held).sum(axis=0)
            assert booked.tolist() == arrived.tolist(), f"step {step}: moved weights are not booked"
        held = now


def _held(expert, rank, layout):
    held = np.zeros((layout.num_experts, layout.num_ranks), bool)
    held[expert, rank] = True
    return held


def check_description(cls, name):
    """What ``ultraep-sim policies`` prints: one line each, nothing empty."""
    assert cls.name == name, f"registered as {name}, calls itself {cls.name}"
    assert re.fullmatch(r"[a-z][a-z0-9_-]*", name), "names are lower case, for YAML and shells"
    for key in ("summary", "sees", "acts", "costs"):
        text = getattr(cls, key)
        assert isinstance(text, str), f"{key} is missing"
        assert text.strip() == text, f"{key} has blanks around it"
        assert text, f"{key} is empty"
        assert "\n" not in text, f"{key} has several lines"
    for key in ("exact", "never_worse", "moves_mains", "may_cross"):
        assert isinstance(getattr(cls, key), bool), f"{key} is not a bool"


def check_options(cls):
    """Options are keyword-only, have defaults, and stand in the class docstring."""
    first, *options = inspect.signature(cls).parameters.values()
    assert first.name == "layout"
    text = inspect.getdoc(cls) or ""
    for option in options:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY, f"{option.name} is positional"
        assert option.default is not inspect.Parameter.empty, f"{option.name} has no default"
        assert re.search(rf"^(\w+, )*{option.name}(, \w+)* :", text, re.MULTILINE), (
            f"option {option.name} is not in the docstring's Parameters"
        )
        json.dumps(option.default, allow_nan=False)


def check_bad_options(subject, layout):
    """Nonsense in an option is a PolicyError that names it, before or while planning."""
    with pytest.raises(PolicyError, match="no such option"):
        subject.bind(layout, no_such_option_at_all=1)
    for option in list(inspect.signature(subject.cls).parameters)[1:]:
        if option == "cost":
            continue  # not the user's: the engine gives it
        with pytest.raises(InputError):
            subject.bind(layout, **{option: object()})


def check_price(policy):
    """Prices are seconds with a source; an exact decision pays for what it needs to know."""
    price = policy.price()
    assert isinstance(price, DecisionPrice)
    for key in ("exchange", "solve", "tasks", "reroute"):
        quantity = getattr(price, key)
        assert quantity.si >= 0, key
        assert quantity.source, f"{key} has no source"
        if quantity.low is not None and quantity.high is not None:
            assert quantity.low <= quantity.value <= quantity.high, key
    assert price.transport in get_args(Transport)
    assert isinstance(price.relay, bool)
    assert isinstance(price.hidden, bool)
    assert isinstance(price.prefetched, bool)
    assert price == policy.price(), "the price of a decision changes by asking"


def check_history(policy):
    """Cadence, window and the first state agree with each other."""
    state = policy.new_state(3)
    assert isinstance(state, PolicyState)
    assert state.layer == 3
    assert policy.window_steps >= 0
    if policy.exact:
        assert policy.cadence_steps is None, "an exact policy asks for no history"
    if policy.cadence_steps is not None:
        assert policy.cadence_steps >= 1
        assert policy.window_steps >= 1
        assert state.history.keep > policy.window_steps
        assert not state.warm, "it cannot be warm before its history is there"
