"""The engine owns history: what a policy may see, when, and what a gap does."""

import numpy as np
import pytest

from ultraep_sim.engine.replay import PolicyReplay, replay
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


def test_sampling_is_no_gap():
    spy = Spy(LAYOUT)
    run([record(s) for s in (0, 5, 10)], spy, step_every=5)
    assert spy.seen[2][2] == []  # two steps back there is no record; nothing is invented
    spy = Spy(LAYOUT)
    run([record(s) for s in (0, 2, 4)], spy, step_every=2)
    assert len(spy.seen[2][2]) == 1


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
