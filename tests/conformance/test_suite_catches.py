"""The suite is a judge only if it convicts: policies that break the contract on purpose."""

import numpy as np
import pytest

from ultraep_sim.errors import PlanError
from ultraep_sim.planning import EPLayout, Plan
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.policies import Policy, registry
from ultraep_sim.policies.base import DecisionPrice, nothing
from ultraep_sim.policies.eplb import EPLB
from ultraep_sim.policies.none import NoBalancing
from ultraep_sim.policies.ultraep import UltraEP

from . import checks
from .subject import Subject, plans

LAYOUT = EPLayout(6, 12, 2)


def batches(seed, count=6):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2000, (6, 12)) for _ in range(count)]


@pytest.fixture
def subject_of(monkeypatch):
    def make(cls):
        monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, cls))
        return Subject(cls.name, cls)

    return make


class Honest(UltraEP):
    name = "honest"

    def plan(self, loads, state):
        plan = super().plan(loads, state)
        return Plan(
            plan.layout, plan.loads, plan.offsets, plan.rank, plan.slot, plan.quota,
            policy=self.name, tau=plan.tau, solve_us=plan.solve_us,
        )  # fmt: skip


def moved_to_rank_zero(policy, loads, **fields):
    """Give rank 0 half of the largest expert of the last rank."""
    total = loads.sum(axis=0)
    mains = np.flatnonzero(policy.layout.home == policy.layout.num_ranks - 1)
    expert = mains[total[mains].argmax()]
    one = np.array([expert], np.int32)
    return plan_from_replicas(
        policy.layout, loads, one, one * 0, total[one] // 2, policy=policy.name, **fields
    )


def test_an_honest_policy_passes(subject_of):
    subject = subject_of(Honest)
    policy = subject.bind(LAYOUT)
    for loads in batches(0):
        checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)
        checks.check_loads_untouched(policy, loads)
    checks.check_deterministic(subject, LAYOUT, batches(0))
    checks.check_layers_apart(subject, LAYOUT, batches(0), batches(1))
    checks.check_plans_last(subject, LAYOUT, batches(0))
    checks.check_blind_to_the_future(subject, LAYOUT, batches(0), batches(0)[:3] + batches(1, 3), 3)
    checks.check_description(Honest, "honest")
    checks.check_options(Honest)
    checks.check_bad_options(subject, LAYOUT)


def test_a_plan_that_is_worse_than_none(subject_of):
    class Worse(NoBalancing):
        name = "worse"

        def plan(self, loads, state):
            return moved_to_rank_zero(self, loads)

    loads = np.full((6, 12), 100)
    policy = subject_of(Worse).bind(LAYOUT)
    with pytest.raises(AssertionError, match="worse"):
        checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)


def test_replicas_without_a_transport(subject_of):
    class Beams(NoBalancing):
        name = "beams"
        never_worse = False

        def plan(self, loads, state):
            return moved_to_rank_zero(self, loads)

    policy, loads = subject_of(Beams).bind(LAYOUT), batches(0)[0]
    with pytest.raises(AssertionError, match="transport"):
        checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)


def test_a_plan_that_leaves_its_domain(subject_of):
    class Crosses(UltraEP):
        name = "crosses"
        never_worse = False

        def plan(self, loads, state):
            return moved_to_rank_zero(self, loads, may_cross=self.lies)

        lies = False

    layout = EPLayout(6, 12, 2, domain_size=3)
    policy, loads = subject_of(Crosses).bind(layout), batches(0)[0]
    with pytest.raises(PlanError, match="left the scale-up domain"):
        checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)
    policy.lies = True
    with pytest.raises(AssertionError, match="may cross"):
        checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)


def test_a_plan_bound_to_a_roomier_layout(subject_of):
    class Roomy(UltraEP):
        name = "roomy"

        def plan(self, loads, state):
            roomier = EPLayout(6, 12, 4)
            nobody = np.empty(0, np.int32)
            return plan_from_replicas(
                roomier, loads, nobody, nobody, np.empty(0, np.int64), policy=self.name
            )

    policy, loads = subject_of(Roomy).bind(LAYOUT), batches(0)[0]
    with pytest.raises(AssertionError, match="another layout"):
        checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)


def test_a_policy_that_remembers_outside_its_state(subject_of):
    class Counts(UltraEP):
        name = "counts"
        calls = 0

        def plan(self, loads, state):
            self.calls += 1
            if self.calls > 6:
                return super().plan(loads * 0 + loads.sum(axis=0) // 6, state)
            return super().plan(loads, state)

    with pytest.raises(AssertionError, match="remembers"):
        checks.check_deterministic(subject_of(Counts), LAYOUT, batches(0))


def test_a_random_policy(subject_of):
    class Random(NoBalancing):
        name = "random"

        def plan(self, loads, state):
            which = np.random.default_rng().integers(2**31)
            return moved_to_rank_zero(self, loads) if which % 2 else super().plan(loads, state)

    with pytest.raises(AssertionError):
        checks.check_deterministic(subject_of(Random), LAYOUT, batches(0, 40))


def test_a_policy_that_mixes_layers(subject_of):
    class Mixes(NoBalancing):
        name = "mixes"
        last = None

        def plan(self, loads, state):
            if state.step == 0 and state.layer == 0:
                self.last = None
            mixed = self.last is not None and self.last != state.layer
            self.last = state.layer
            return moved_to_rank_zero(self, loads) if mixed else super().plan(loads, state)

    with pytest.raises(AssertionError, match="layer changed"):
        checks.check_layers_apart(subject_of(Mixes), LAYOUT, batches(0), batches(1))


def test_a_plan_that_shares_the_workspace(subject_of):
    class Shares(NoBalancing):
        name = "shares"

        def plan(self, loads, state):
            plan = super().plan(loads, state)
            self.quota = getattr(self, "quota", plan.quota)
            self.quota[:] = plan.quota
            return Plan(
                plan.layout, plan.loads, plan.offsets, plan.rank, plan.slot, self.quota,
                policy=self.name,
            )  # fmt: skip

    with pytest.raises(AssertionError, match="overwrote"):
        checks.check_plans_last(subject_of(Shares), LAYOUT, batches(0))


class SeesItsOwnBatch(EPLB):
    """A history policy that counts the running batch into its history."""

    name = "peeks"

    def plan(self, loads, state):
        state.history.add(state.step - 1, loads.sum(axis=0))
        return super().plan(loads, state)


def test_a_history_policy_that_looks_at_the_running_batch(subject_of):
    was, now = batches(0), batches(0)[:3] + batches(1, 3)
    with pytest.raises(AssertionError, match="unseen load"):
        checks.check_blind_to_the_future(subject_of(SeesItsOwnBatch), LAYOUT, was, now, 3)


def test_a_policy_that_knows_the_future(subject_of):
    future = {}

    class Oracle(NoBalancing):
        name = "oracle"

        def plan(self, loads, state):
            told = future.get(state.step + 1, 0) % 2
            return moved_to_rank_zero(self, loads) if told else super().plan(loads, state)

    subject, real = subject_of(Oracle), plans

    def told(policy, given):
        future.update({step: int(loads.sum()) for step, loads in enumerate(given)})
        return real(policy, given)

    was = batches(0)
    other = [*was[:3], was[3].copy(), *was[4:]]
    other[3][0, 0] += 1  # changes the parity of what step 2 is told
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "plans", told)
        with pytest.raises(AssertionError, match="knew of step 3"):
            checks.check_blind_to_the_future(subject, LAYOUT, was, other, 3)


def test_weights_that_move_unseen(subject_of):
    class Sneaks(EPLB):
        name = "sneaks"

        def plan(self, loads, state):
            plan = super().plan(loads, state)
            state.moved = None
            return plan

    with pytest.raises(AssertionError, match="not booked"):
        checks.check_moved(subject_of(Sneaks), LAYOUT, batches(0))


def test_a_policy_that_writes_into_the_loads(subject_of):
    class Scribbles(NoBalancing):
        name = "scribbles"

        def plan(self, loads, state):
            loads[0, 0] = 0
            return super().plan(loads, state)

    with pytest.raises(ValueError, match="read-only"):
        checks.check_loads_untouched(subject_of(Scribbles).bind(LAYOUT), batches(0)[0])


def test_bad_manners(subject_of):
    class Undocumented(NoBalancing):
        """Say nothing about options."""

        name = "undocumented"

        def __init__(self, layout, *, knob: int = 1):
            super().__init__(layout)

    class Positional(NoBalancing):
        name = "positional"

        def __init__(self, layout, knob=1):
            super().__init__(layout)

    class TakesSlots(NoBalancing):
        name = "takes_slots"

        def __init__(self, layout):
            super().__init__(EPLayout(6, 12, 1))

    class TwoLines(NoBalancing):
        name = "two_lines"
        summary = "one\ntwo"

    class Wants(NoBalancing):
        name = "wants"

        @property
        def cadence_steps(self):
            return 3

    class Fickle(NoBalancing):
        name = "fickle"
        asked = 0

        def price(self):
            self.asked += 1
            zero = nothing(f"asked {self.asked} times")
            return DecisionPrice(zero, zero, zero, zero, "none")

    with pytest.raises(AssertionError, match="knob is not in the docstring"):
        checks.check_options(Undocumented)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        checks.check_bad_options(subject_of(Undocumented), LAYOUT)
    with pytest.raises(AssertionError, match="positional"):
        checks.check_options(Positional)
    with pytest.raises(AssertionError, match="fewer slots"):
        checks.check_layout(TakesSlots(LAYOUT), LAYOUT)
    with pytest.raises(AssertionError, match="several lines"):
        checks.check_description(TwoLines, "two_lines")
    with pytest.raises(AssertionError, match="calls itself"):
        checks.check_description(Honest, "dishonest")
    with pytest.raises(AssertionError, match="asks for no history"):
        checks.check_history(Wants(LAYOUT))
    with pytest.raises(AssertionError, match="changes by asking"):
        checks.check_price(Fickle(LAYOUT))


def test_policies_are_abstract_until_they_plan_and_price():
    class Half(Policy):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half(LAYOUT)
