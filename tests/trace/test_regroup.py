import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trace.toys import toy_meta, toy_trace
from ultraep_sim.engine.replay import PolicyReplay, replay
from ultraep_sim.errors import TraceError
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy
from ultraep_sim.trace import Trace, synthesize

LAYERS = 2


def numbered(steps, micro_batches=1, sampling=None):
    """Every record's first load says which micro-batch of the recording it was."""
    meta = toy_meta(source_ranks=1, tokens_per_rank=1000, sampling=sampling or {})
    keys = [(s, m, layer) for s in steps for m in range(micro_batches) for layer in range(LAYERS)]
    loads = []
    for i, _ in enumerate(keys):
        row = [1000 - i // LAYERS, i // LAYERS, 1000, 0, 0, 0, 0, 0]
        loads.append([row])
    return Trace.from_arrays(meta, *np.array(keys).T, loads)


def told(trace):
    return [(r.step, r.micro_batch, r.layer, int(r.loads[0, 1])) for r in trace]


def test_every_w_steps_become_one():
    view = numbered(range(100, 107)).regrouped(3)
    assert told(view)[::LAYERS] == [(i // 3, i % 3, 0, i) for i in range(6)]
    assert view.num_records == 12
    assert view.micro_batches.tolist() == [0, 1, 2]
    assert np.array_equal(view.keys(), [t[:3] for t in told(view)])
    assert view.meta.notes["regrouped"] == {"micro_batches": 3, "from": 1, "dropped": 1}
    Trace.from_records(view.meta, view)  # passes every check of the format


def test_a_regrouped_trace_is_a_view_like_any_other(tmp_path):
    trace = numbered(range(8))
    view = trace.regrouped(2)
    assert view.digest == trace.digest
    assert told(view.select(steps=slice(1, 3), layers=1)) == [
        (1, 0, 1, 2), (1, 1, 1, 3), (2, 0, 1, 4), (2, 1, 1, 5),
    ]  # fmt: skip
    assert told(view.select(micro_batches=1))[:2] == [(0, 1, 0, 1), (0, 1, 1, 1)]
    assert told(view.select(steps=9)) == []
    assert told(trace.select(layers=1).regrouped(4)) == told(trace.regrouped(4).select(layers=1))
    assert told(view.rescaled(500))[0][:3] == (0, 0, 0)
    spread = next(iter(view.with_sources(4)))
    assert spread.loads.shape[0] == 4
    assert told(Trace.read(view.write(tmp_path / "t.parquet"))) == told(view)


@pytest.mark.parametrize("view", ["steps", "stride"])
def test_what_was_selected_before_stays_out(view):
    trace = numbered(range(12))
    if view == "steps":
        found = trace.select(steps=slice(5, 9)).regrouped(2)
        assert [t[3] for t in told(found)[::LAYERS]] == [5, 6, 7, 8]
    else:
        found = trace.select(steps=slice(0, None, 3)).regrouped(2)
        assert [t[3] for t in told(found)[::LAYERS]] == [0, 3, 6, 9]
        assert found.steps.tolist() == [0, 1]
        assert found.meta.sampling["step_every"] == 3  # so that history policies are refused


def test_micro_batches_are_joined_or_cut():
    trace = numbered(range(4), micro_batches=2)
    joined = told(trace.regrouped(4))[::LAYERS]
    assert joined == [(i // 4, i % 4, 0, i) for i in range(8)]
    assert told(trace.regrouped(2)) == told(trace)
    assert told(trace.regrouped(1))[::LAYERS] == [(i, 0, 0, i) for i in range(8)]
    with pytest.raises(TraceError, match="give a multiple or a divisor of 2"):
        trace.regrouped(3)


def test_no_group_and_no_history_reaches_across_a_gap():
    steps = [0, 1, 2, 3, 4, 10, 11, 12, 13, 20]
    trace = numbered(steps, sampling={"steps": [[0, 5], [10, 14], [20, 21]]})
    view = trace.regrouped(2)
    assert told(view)[::LAYERS] == [
        (0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 0, 2), (1, 1, 0, 3),
        (3, 0, 0, 5), (3, 1, 0, 6), (4, 0, 0, 7), (4, 1, 0, 8),
    ]  # fmt: skip
    assert view.meta.sampling["steps"] == [[0, 2], [3, 5]]
    assert view.meta.notes["regrouped"]["dropped"] == 2

    layout = EPLayout(4, 8, 1)
    item = PolicyReplay("eplb", get_policy("eplb", layout, cadence_steps=1), 128)
    warm = []
    replay(view.with_sources(4), [item], lambda chunk: warm.extend(chunk.warm.tolist()))
    by_step = np.array(warm).reshape(4, -1)
    assert by_step.any(axis=1).tolist() == [False, True, False, True]


def test_history_sees_whole_global_batches():
    """EPLB renews its placement at steps, so never between micro-batches of one."""
    trace = synthesize(64, 8, 1, 12, 8, 64, 2.0, 8, drift=0.5, drift_memory=0.5)
    layout = EPLayout(8, 64, 1)

    def moves(records):
        item = PolicyReplay("eplb", get_policy("eplb", layout, cadence_steps=1), 128)
        found = []
        replay(records, [item], lambda c: found.extend(c.stats.moved_copies.sum(axis=1).tolist()))
        return np.flatnonzero(found).tolist()

    assert moves(trace) == list(range(1, 12))
    assert moves(trace.regrouped(4)) == [4, 8]


@given(
    runs=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    have=st.integers(1, 4),
    factor=st.integers(1, 4),
    cut=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_groups_are_full_ordered_and_whole_runs(runs, have, factor, cut):
    steps = [s for i, length in enumerate(runs) for s in range(20 * i, 20 * i + length)]
    trace = numbered(steps, have)
    want = next(w for w in range(factor, 0, -1) if have % w == 0) if cut else have * factor
    kept = sum(length * have // want * want for length in runs)
    if not kept:
        with pytest.raises(TraceError, match="give fewer"):
            trace.regrouped(want)
        return
    view = trace.regrouped(want)
    keys = view.keys()
    assert len(keys) == kept * LAYERS == view.num_records
    assert keys.tolist() == sorted(keys.tolist())
    assert (np.unique(keys[:, 0], return_counts=True)[1] == want * LAYERS).all()
    assert view.meta.notes["regrouped"]["dropped"] == sum(runs) * have - kept


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, "2"])
def test_an_impossible_number_is_named(bad):
    with pytest.raises(TraceError, match="give 1 or more"):
        toy_trace().regrouped(bad)


def test_steps_of_unequal_length_are_refused():
    trace = numbered(range(3), 2)
    ragged = Trace.from_records(trace.meta, list(trace)[:-LAYERS])
    with pytest.raises(TraceError, match="different numbers of micro-batches"):
        ragged.regrouped(2)
    with pytest.raises(TraceError, match="no records"):
        trace.select(steps=9).regrouped(2)
