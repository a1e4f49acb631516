"""The engine owns history: what a policy may see, when, and what a gap does."""

import numpy as np
import pytest

from ultraep_sim.engine.replay import PolicyReplay, replay
from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy
from ultraep_sim.policies.none import NoBalancing
from ultraep_sim.trace import Record

LAYOUT = EPLayout(4, 8, 1)


def record(step, layer=0, micro_batch=0, seed=None):
    rng = np.random.default_rng(step if seed is None else seed)
    return Record(step, micro_batch, layer, rng.integers(0, 100, (4, 8), np.int32))


class Spy(NoBalancing):
    """Needs two global batches of history and notes what it is shown."""

    exact = False
    cadence_steps = 2
    window_steps = 2

    def __init__(self, layout):
        super().__init__(layout)
        self.seen = []

    def plan(self, loads, state):
        window = state.history.window(state.step, 2)
        self.seen.append((state.step, state.micro_batch, [w.tolist() for w in window]))
        state.warm = len(window) == 2
        state.moved = np.full(4, len(self.seen))
        return super().plan(loads, state)


def run(records, policy, **kwargs):
    chunks = []

    def keep(chunk):
        chunks.append((chunk.step.tolist(), chunk.warm.tolist(), chunk.stats.moved_copies.copy()))

    count = replay(records, [PolicyReplay("spy", policy, 128, capacity=3)], keep, **kwargs)
    return count, chunks


def totals(records, step):
    return sum(r.loads.sum(axis=0) for r in records if r.step == step).tolist()


def test_history_holds_only_global_batches_that_are_over():
    records = [record(s, micro_batch=m, seed=10 * s + m) for s in range(3) for m in range(2)]
    spy = Spy(LAYOUT)
    run(records, spy)
    shown = {(step, mb): window for step, mb, window in spy.seen}
    assert shown[0, 0] == shown[0, 1] == []  # the running batch is not history yet
    assert shown[1, 0] == shown[1, 1] == [totals(records, 0)]
    assert shown[2, 1] == [totals(records, 0), totals(records, 1)]


def test_layers_have_histories_of_their_own():
    records = [record(s, layer, seed=10 * s + layer) for s in range(2) for layer in range(2)]
    spy = Spy(LAYOUT)
    run(records, spy)
    assert spy.seen[2][2] == [records[0].loads.sum(axis=0).tolist()]
    assert spy.seen[3][2] == [records[1].loads.sum(axis=0).tolist()]


def test_a_gap_drops_history_and_warmth():
    spy = Spy(LAYOUT)
    _, chunks = run([record(s) for s in (0, 1, 2, 10, 11, 12)], spy)
    assert [warm for _, w, _ in chunks for warm in w] == [False, False, True] * 2
    assert spy.seen[3][2] == []


def test_history_policies_refuse_a_trace_that_left_steps_out():
    records = [record(s) for s in (0, 5, 10)]
    for policy in (Spy(LAYOUT), get_policy("eplb", LAYOUT), get_policy("predictive", LAYOUT)):
        with pytest.raises(PolicyError, match="one in 5"):
            run(records, policy, step_every=5)
    assert run(records, get_policy("ultraep", LAYOUT), step_every=5)[0] == 3


def test_a_placement_on_half_a_window_is_not_warm():
    policy = get_policy("eplb", LAYOUT, cadence_steps=1, window_steps=4)
    _, chunks = run([record(s) for s in range(6)], policy)
    assert [warm for _, w, _ in chunks for warm in w] == [False] * 4 + [True] * 2


def test_the_layer_below_is_the_one_below():
    seen = {}

    class Below(NoBalancing):
        def plan(self, loads, state):
            seen[state.step, state.layer] = state.layer_before
            return super().plan(loads, state)

    run([record(s, layer) for s in range(2) for layer in (0, 1, 7)], Below(LAYOUT))
    assert seen[0, 0] is None
    assert seen[1, 1].tolist() == record(1, 0).loads.sum(axis=0).tolist()
    assert seen[1, 7] is None  # layers 2 to 6 are not there: nothing is known of layer 6


def test_chunks_come_in_order_and_buffers_are_reused():
    count, chunks = run([record(s) for s in range(7)], Spy(LAYOUT))
    assert count == 7
    assert [step for step, _, _ in chunks] == [[0, 1, 2], [3, 4, 5], [6]]
    assert chunks[2][2].tolist() == [[7] * 4]


@pytest.mark.parametrize("name", ["none", "eplb", "eplb_plus", "ultraep", "ideal"])
def test_plans_of_the_past_do_not_depend_on_the_future(name):
    """Invariant 9 through the engine: change every record from step 6 on."""

    def counts(records):
        out = []
        replay(
            records,
            [PolicyReplay(name, get_policy(name, LAYOUT), 128)],
            lambda c: out.append(c.stats.pairs.copy()),
        )
        return np.concatenate(out)

    before = counts([record(s) for s in range(9)])
    after = counts([record(s, seed=s if s < 6 else 1000 + s) for s in range(9)])
    assert np.array_equal(before[:6], after[:6])
    assert not np.array_equal(before[6:], after[6:])
