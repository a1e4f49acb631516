"""The arena: rows that a plan gives again, policies that need more slots, ratios by hand."""

import math

import numpy as np
import pytest

import ultraep_sim as us
from ultraep_sim.errors import PlanError, PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.policies import available_policies, get_policy, registry
from ultraep_sim.policies.none import NoBalancing
from ultraep_sim.validate.arena import MORE_SLOTS, NOT_APPLICABLE, OK, contenders, run_arena
from ultraep_sim.validate.draws import Shape
from ultraep_sim.validate.families import cases
from ultraep_sim.validate.summary import summarise

SMALL = Shape(32, 8, 2)
CONTRACT = (
    "family", "experts", "ranks", "slots", "policy", "imbalance", "replicas", "max_fanout",
    "remote_fraction", "solve_us", "replica_lower_bound", "tau_lower_bound",
)  # fmt: skip


class NeedsThreeSlots(NoBalancing):
    name = "greedy_for_slots"
    never_worse = False

    def __init__(self, layout):
        super().__init__(
            EPLayout(layout.num_ranks, layout.num_experts, 3, layout.domain_size, layout.home)
        )


@pytest.fixture
def third_party(monkeypatch):
    """Return a function that makes a policy class one of the registered ones."""

    def register(cls):
        monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, cls))

    return register


def test_every_policy_competes_under_its_own_name():
    rivals = contenders()
    assert {rival.policy for rival in rivals} == {cls.name for cls in available_policies().values()}
    assert len({rival.label for rival in rivals}) == len(rivals)
    blind = {name for name, cls in available_policies().items() if not cls.exact}
    assert {rival.policy for rival in rivals if rival.hindsight} == blind


def test_choosing_policies():
    assert [rival.label for rival in contenders(["none"])] == ["none", "ultraep"]
    assert contenders(["eplb"])[0].label == "eplb (hindsight)"
    with pytest.raises(PolicyError, match="unknown policy"):
        contenders(["nonesuch"])


def test_history_policies_are_given_hindsight():
    """Perfect knowledge: EPLB is as good as it can be, and places as `us.plan` makes it."""
    rows = run_arena(policies=["eplb"], shapes=[SMALL], seeds=1)
    case = next(case for case in cases(SMALL, seeds=1) if case.family == "zipf-3")
    row = next(
        row for row in rows if row["policy"] == "eplb (hindsight)" and row["family"] == "zipf-3"
    )
    plan = us.plan(case.loads, SMALL.layout(), policy="eplb")
    assert row["imbalance"] == plan.imbalance < 1.5
    assert row["hindsight"] is True
    assert row["replica_lower_bound"] is None, "it moves mains: the bounds do not speak of it"


def test_rows_are_what_a_plan_of_the_case_gives():
    rows = run_arena(policies=["eplb_plus"], shapes=[SMALL], seeds=1)
    by_key = {(row["family"], row["index"], row["policy"]): row for row in rows}
    assert len(by_key) == len(rows)
    for case in cases(SMALL, seeds=1):
        for name in ("ultraep", "eplb_plus"):
            row = by_key[case.family, case.index, name]
            policy = get_policy(name, SMALL.layout())
            plan = policy.plan(case.loads, policy.new_state())
            assert set(CONTRACT) <= set(row)
            assert (row["experts"], row["ranks"], row["slots"]) == (32, 8, 2)
            assert row["status"] == OK
            assert row["imbalance"] == plan.imbalance
            assert row["imbalance_before"] == pytest.approx(plan.imbalance_before)
            assert row["replicas"] == plan.num_replicas
            assert row["max_fanout"] == plan.max_fanout
            assert row["remote_fraction"] == plan.remote_fraction
            assert row["max_home_sends"] == plan.sends_per_rank.max()
            assert row["solve_us"] > 0
            if row["replica_lower_bound"] is not None:
                assert row["replica_lower_bound"] <= row["replicas"]
                assert 1.0 <= row["tau_lower_bound"] <= max(row["imbalance"], 1.0)


def test_a_policy_that_needs_more_slots_is_shown_at_both(third_party):
    third_party(NeedsThreeSlots)
    rows = run_arena(policies=["greedy_for_slots"], shapes=[SMALL], seeds=1)
    mine = [row for row in rows if row["policy"] == "greedy_for_slots"]
    offered = [row for row in mine if row["status"] == NOT_APPLICABLE]
    needed = [row for row in mine if row["status"] == MORE_SLOTS]
    assert len(offered) == len(needed) == len(mine) / 2
    assert all(row["imbalance"] is None for row in offered)
    assert offered[0]["reason"] == "needs 3 slots a rank"
    assert {(r["slots"], r["slots_needed"], r["extra_slots"]) for r in needed} == {(2, 3, 1)}
    entry = next(e for e in summarise(rows) if e["policy"] == "greedy_for_slots")
    assert (entry["status"], entry["extra_slots"]) == (MORE_SLOTS, 1)
    assert entry["not_applicable"] == len(offered)


def test_a_policy_that_refuses_the_layout_is_not_applicable(third_party):
    class Picky(NoBalancing):
        name = "picky"

        def __init__(self, layout):
            raise PolicyError("only for groups of 7")

    third_party(Picky)
    rows = run_arena(policies=["picky"], shapes=[SMALL], seeds=1)
    mine = [row for row in rows if row["policy"] == "picky"]
    assert {row["status"] for row in mine} == {NOT_APPLICABLE}
    assert "groups of 7" in mine[0]["reason"]
    assert "picky" not in {entry["policy"] for entry in summarise(rows)}


def test_an_invalid_plan_stops_the_arena(third_party):
    class Doubles(NoBalancing):
        name = "doubles"

        def plan(self, loads, state):
            one = np.array([0, 0], np.int32)
            return plan_from_replicas(self.layout, loads, one, one + 1, np.array([0, 0]))

    third_party(Doubles)
    with pytest.raises(PlanError, match="two instances on one rank"):
        run_arena(policies=["doubles"], shapes=[SMALL], seeds=1)


def test_replicas_are_compared_at_the_baselines_max_load():
    """Where mosaic balances better it is asked again for the published planner's balance."""
    shape = Shape(128, 64, 1)
    rows = run_arena(policies=["mosaic"], shapes=[shape], seeds=1)
    base = {(r["family"], r["index"]): r for r in rows if r["policy"] == "ultraep"}
    asked = 0
    for mine in (r for r in rows if r["policy"] != "ultraep"):
        other, again = base[mine["family"], mine["index"]], mine["at_baseline_tau"]
        if again is None:
            assert mine["imbalance"] >= other["imbalance"] - 0.002
            continue
        asked += 1
        assert again["imbalance"] <= other["imbalance"] + 0.0002
        assert again["replica_lower_bound"] <= again["replicas"]
        assert again["replica_lower_bound"] <= mine["replica_lower_bound"]
    assert asked


def row(policy, family, *, index=0, imbalance=1.01, replicas=10, fanout=4, sends=4, us=20.0, lb=8):
    return {
        "policy": policy, "family": family, "index": index, "experts": 32, "ranks": 8, "slots": 2,
        "status": OK, "imbalance": imbalance, "replicas": replicas, "max_fanout": fanout,
        "max_home_sends": sends, "solve_us": us, "replica_lower_bound": lb, "extra_slots": 0,
        "counting_lower_bound": lb and lb - 1,
        "hindsight": False, "at_baseline_tau": None,
    }  # fmt: skip


def test_summary_by_hand():
    rows = [
        row("ultraep", "a"),
        row("ultraep", "a", index=1),
        row("ultraep", "b", replicas=20),
        row("ultraep", "c", imbalance=1.2),
        row("ultraep", "calm", replicas=0, lb=0),
        row("rival", "a", replicas=5, us=10.0, lb=5),
        row("rival", "a", index=1, replicas=20, us=10.0, lb=5),
        row("rival", "b", replicas=5, fanout=8, us=5.0, lb=5),
        row("rival", "c", imbalance=1.19, replicas=99),  # another tau: no ratio of replicas
        row("rival", "calm", imbalance=1.013, replicas=0, lb=0),
    ]
    # Better balanced than the baseline; asked for the baseline's balance it opens half as many.
    better = row("rival", "d", imbalance=1.01, replicas=99)
    better["at_baseline_tau"] = {
        "imbalance": 1.3, "replicas": 5, "max_fanout": 4, "max_home_sends": 4,
        "replica_lower_bound": 5, "counting_lower_bound": 4,
    }  # fmt: skip
    matched = summarise([row("ultraep", "d", imbalance=1.3), better])[1]
    assert (matched["equal_tau_cases"], matched["replicas_ratio"]) == (1, pytest.approx(0.5))
    assert matched["bound_ratio"] == pytest.approx(99 / 8), "of the plan it made on its own"

    base, rival = summarise(rows)
    assert base["replicas_ratio"] == base["kernel_ratio"] == 1.0
    assert (base["equal_tau_cases"], rival["equal_tau_cases"]) == (4, 3)
    # Family a: sqrt(0.5 x 2) = 1; family b: 0.25; their geometric mean 0.5.
    assert rival["replicas_ratio"] == pytest.approx(0.5)
    assert rival["max_fanout_ratio"] == pytest.approx(math.sqrt(2))
    assert rival["max_home_sends_ratio"] == pytest.approx(1.0)
    assert rival["floor_ratio"] == pytest.approx(math.sqrt(0.5 * 0.25))
    assert rival["counting_floor_ratio"] == pytest.approx(math.sqrt(0.4 * 0.2))
    assert rival["kernel_ratio"] == pytest.approx((0.5 * 0.25 * 1.0) ** (1 / 3))
    assert rival["worst_imbalance_difference"] == pytest.approx(0.003)
