"""Every policy keeps the contract; the five built-in ones do what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from tests.planning.strategies import load_matrices, problems
from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import available_policies, get_policy

NAMES = sorted(available_policies())


def walk(policy, batches):
    """Plan one layer over global batches as the engine does; return the plans."""
    state = policy.new_state()
    plans = []
    for step, loads in enumerate(batches):
        state.step, state.moved = step, None
        plans.append(policy.plan(loads, state))
        state.previous = loads.sum(axis=0)
        state.history.add(step, state.previous)
    return plans


def signature(plan):
    return (plan.offsets.tolist(), plan.rank.tolist(), plan.slot.tolist(), plan.quota.tolist())


@pytest.mark.parametrize("name", NAMES)
@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_every_plan_is_valid(name, problem):
    layout, loads = problem
    plan = us.plan(loads, layout, policy=name)
    plan.validate(loads)
    cls = available_policies()[name]
    assert plan.policy == name
    if cls.never_worse:
        ideal_ceiling = -(-int(plan.loads.sum()) // layout.num_ranks)
        assert plan.rank_loads.max() <= max(plan.rank_loads_before.max(), ideal_ceiling)
    if not cls.moves_mains:
        assert plan.rank[plan.offsets[:-1]].tolist() == layout.home.tolist()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_invariant_8_same_loads_same_plan(name, data):
    layout = EPLayout(6, 12, 2)
    batches = [data.draw(load_matrices(layout, one_row=False)) for _ in range(5)]
    once = [signature(p) for p in walk(get_policy(name, layout), batches)]
    again = [signature(p) for p in walk(get_policy(name, layout), batches)]
    assert once == again


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_invariant_9_no_policy_sees_the_future(name, data):
    """Change batches from some step on: plans before it stay, and so do blind decisions at it."""
    layout = EPLayout(6, 12, 2)
    batches = [data.draw(load_matrices(layout, one_row=False)) for _ in range(8)]
    at = data.draw(st.integers(0, 7))
    other = batches[:at] + [data.draw(load_matrices(layout, one_row=False)) for _ in range(8 - at)]
    plans, changed = (walk(get_policy(name, layout), b) for b in (batches, other))
    assert [signature(p) for p in plans[:at]] == [signature(p) for p in changed[:at]]
    if not available_policies()[name].exact:
        # A history policy decides where instances are before it sees the batch itself.
        assert plans[at].rank.tolist() == changed[at].rank.tolist()
        assert plans[at].offsets.tolist() == changed[at].offsets.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_explains_itself_and_names_its_price(name):
    policy = get_policy(name, EPLayout(4, 8, 1))
    for text in (policy.summary, policy.sees, policy.acts, policy.costs):
        assert text
        assert "\n" not in text
    price = policy.price()
    assert all(q.si >= 0 for q in (price.exchange, price.solve, price.tasks, price.reroute))
    assert all(q.source for q in (price.exchange, price.solve, price.tasks, price.reroute))


class TestIdeal:
    @pytest.mark.parametrize("shape", [(64, 128), (72, 256), (8, 3), (5, 7)])
    def test_every_rank_gets_the_same(self, shape):
        layout = EPLayout(*shape, 1)
        loads = np.random.default_rng(0).integers(0, 500, shape)
        plan = us.plan(loads, layout, policy="ideal")
        plan.validate(loads)
        assert plan.rank_loads.max() - plan.rank_loads.min() <= 1
        assert plan.loads.sum(axis=1).tolist() == loads.sum(axis=1).tolist()


class TestEPLB:
    def test_mains_stay_home_until_the_cadence(self):
        layout = EPLayout(4, 8, 1)
        batches = [np.random.default_rng(s).integers(0, 100, (4, 8)) for s in range(7)]
        plans = walk(get_policy("eplb", layout, cadence_steps=3), batches)
        assert [p.num_replicas for p in plans[:3]] == [0, 0, 0]
        assert all(p.num_replicas == 4 for p in plans[3:])
        assert plans[3].rank.tolist() == plans[5].rank.tolist()

    def test_it_plans_on_the_mean_of_its_window(self):
        """Steady loads: the placement equals the one for the true loads; the split is even."""
        layout = EPLayout(2, 4, 1)
        loads = np.array([[60, 20, 10, 10], [60, 20, 10, 10]])
        plan = walk(get_policy("eplb", layout, cadence_steps=2), [loads] * 3)[-1]
        # Six instances: 120 -> 3 x 40 (after 60, 60 and 40 stay largest), 40, 20, 20
        assert np.diff(plan.offsets).tolist() == [3, 1, 1, 1]
        assert plan.quota.tolist() == [40, 40, 40, 40, 20, 20]
        assert plan.rank.tolist() == [0, 1, 0, 1, 0, 1]  # equal packs: the lower rank first
        assert plan.imbalance == 1.0

    def test_window_forgets_older_batches(self):
        layout = EPLayout(4, 8, 1)
        rng = np.random.default_rng(1)
        old, new = rng.integers(0, 99, (4, 8)), rng.integers(0, 99, (4, 8))
        policy = get_policy("eplb", layout, cadence_steps=4, window_steps=2)
        seen = walk(policy, [old, old, new, new, old])[-1]
        only_new = walk(policy, [new, new, new, new, old])[-1]
        assert seen.rank.tolist() == only_new.rank.tolist()

    def test_moved_weights_are_those_a_rank_did_not_hold(self):
        layout = EPLayout(2, 4, 1)
        policy = get_policy("eplb", layout, cadence_steps=1)
        state = policy.new_state()
        loads = np.array([[60, 20, 10, 10], [60, 20, 10, 10]])
        policy.plan(loads, state)
        state.history.add(0, loads.sum(axis=0))
        state.step = 1
        plan = policy.plan(loads, state)
        held = [{0, 1}, {2, 3}]
        now = [set(plan.expert[plan.rank == r].tolist()) for r in range(2)]
        assert state.moved.tolist() == [len(now[r] - held[r]) for r in range(2)]
        assert state.warm

    def test_duplicates_on_a_rank_are_kept(self):
        layout = EPLayout(2, 2, 2)
        plan = walk(get_policy("eplb", layout, cadence_steps=1), [np.array([[99, 1]] * 2)] * 2)[1]
        hosts = plan.rank[plan.expert == 0]
        assert len(hosts) > len(set(hosts.tolist()))  # EPLB's own behaviour
        plan.validate()


class TestEPLBPlus:
    def test_by_hand(self):
        """Loads 80 | 20 | 10 | 10, one slot: 80 -> 2 x 40 -> 3 -> 4 x 20: every other rank."""
        plan = us.plan(np.array([80, 20, 10, 10]), EPLayout(4, 4, 1), policy="eplb_plus")
        # Four replicas by rule: 80 halves to 40, then 26.7, then 20 (tie with expert 1: lower).
        # Fan-out of expert 0 is capped by its three other ranks; the fourth goes to expert 1.
        assert plan.fanout[0] == 3
        assert plan.quota[plan.expert == 0].tolist() == [20, 20, 20, 20]

    def test_it_fills_the_slots(self):
        loads = np.random.default_rng(0).integers(1, 1000, 256)
        plan = us.plan(loads, EPLayout(64, 256, 2), policy="eplb_plus")
        assert plan.num_replicas >= 120
        plan.validate()


class TestRegistry:
    def test_unknown_policy_suggests(self):
        with pytest.raises(PolicyError, match="did you mean ultraep"):
            get_policy("ultrep", EPLayout(2, 2, 1))

    def test_unknown_option_suggests(self):
        with pytest.raises(PolicyError, match="did you mean target"):
            get_policy("ultraep", EPLayout(2, 2, 1), targt=1.0)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("eplb", {"cadence_steps": 0}),
            ("eplb", {"cadence_steps": 1.5}),
            ("eplb", {"migration": "teleport"}),
            ("ultraep", {"target": "low"}),
            ("ultraep", {"min_quota": -1}),
            ("none", {"target": 1.0}),
        ],
    )
    def test_bad_options_are_policy_errors(self, name, options):
        with pytest.raises(PolicyError):
            get_policy(name, EPLayout(2, 2, 1), **options)

    def test_a_broken_entry_point_is_named(self, monkeypatch):
        from importlib.metadata import EntryPoint

        from ultraep_sim.policies import registry

        def install(*points):
            monkeypatch.setattr(registry, "entry_points", lambda group: points)

        group = registry.ENTRY_POINT_GROUP
        install(EntryPoint("gone", "no_such_module:Policy", group))
        with pytest.raises(PolicyError, match="gone"):
            available_policies()
        install(EntryPoint("dict", "builtins:dict", group))
        with pytest.raises(PolicyError, match="not a Policy class"):
            available_policies()
        install(EntryPoint("none", "ultraep_sim.policies.none:NoBalancing", group))
        with pytest.raises(PolicyError, match="in use"):
            available_policies()
        install(EntryPoint("mine", "ultraep_sim.policies.ultraep:UltraEP", group))
        assert "mine" in available_policies()


class TestHindsight:
    """`us.plan` has no history: the loads at hand stand for the past."""

    layout, loads = EPLayout(3, 3, 1), np.array([90, 30, 0])

    @pytest.mark.parametrize("source", ["step", "layer"])
    def test_predictive_plans(self, source):
        plan = us.plan(self.loads, self.layout, policy="predictive", source=source, target=1.0)
        assert plan.rank_loads.tolist() == [40, 40, 40]
        assert plan.num_replicas == 2

    def test_exact_policies_are_given_nothing(self):
        seen = []

        class Spy(available_policies()["none"]):
            def plan(self, loads, state):
                seen.append((state.previous, state.layer_before, len(state.history)))
                return super().plan(loads, state)

        us.plan(self.loads, self.layout, policy=Spy(self.layout))
        assert seen == [(None, None, 0)]


class TestPolicyObjects:
    def test_one_made_for_the_layout_plans(self):
        layout = EPLayout(4, 8, 1)
        loads = np.arange(8) ** 2
        made = us.plan(loads, layout, policy=get_policy("ultraep", layout, target=1.2))
        assert signature(made) == signature(us.plan(loads, layout, target=1.2))

    def test_one_that_took_more_slots_plans(self):
        layout = EPLayout(4, 8, 1)
        us.plan(np.arange(8), layout, policy=get_policy("moonep", layout)).validate()

    @pytest.mark.parametrize("other", [EPLayout(4, 8, 0), EPLayout(2, 8, 1), EPLayout(4, 8, 1, 2)])
    def test_one_made_for_another_layout_is_refused(self, other):
        with pytest.raises(PolicyError, match="another layout"):
            us.plan(np.arange(8), EPLayout(4, 8, 1), policy=get_policy("ultraep", other))

    def test_options_beside_an_object_are_refused(self):
        layout = EPLayout(4, 8, 1)
        with pytest.raises(PolicyError, match="no options"):
            us.plan(np.arange(8), layout, policy=get_policy("ultraep", layout), target=3.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eplb", {"window_steps": 0}),
        ("lplb", {"window_steps": 0}),
        ("ultraep", {"min_quota": 2.5}),
        ("mosaic", {"tile_rows": 1.9}),
        ("mosaic", {"tile_rows": True}),
    ],
)
def test_options_are_not_truncated_or_swallowed(name, options):
    with pytest.raises(PolicyError):
        get_policy(name, EPLayout(4, 8, 1), **options)


def test_with_speeds_mosaic_does_not_promise_what_it_cannot_keep():
    layout = EPLayout(2, 4, 1)
    uneven = get_policy("mosaic", layout, speeds=[1, 4])
    plan = us.plan(np.full(4, 50), layout, policy=uneven)
    assert plan.rank_loads.max() > plan.rank_loads_before.max()
    assert not uneven.never_worse
    assert plan.tau is None
    assert get_policy("mosaic", layout, speeds=[1, 1]).never_worse
