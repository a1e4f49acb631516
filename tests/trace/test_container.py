import doctest
import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim.trace
from tests.trace.toys import same, toy_arrays, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Record, Trace


def test_all_is_exact_and_every_name_is_there():
    names = ultraep_sim.trace.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(ultraep_sim.trace, name) for name in names)
    with pytest.raises(AttributeError):
        _ = ultraep_sim.trace.no_such_name


def test_import_is_light():
    code = (
        "import sys, ultraep_sim.trace; "
        "print([m for m in ('matplotlib', 'pyarrow', 'numba', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["container", "meta", "rescale", "sources", "synth", "synth_profile"]
)
def test_doctests(module):
    found = doctest.testmod(importlib.import_module(f"ultraep_sim.trace.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_records_come_in_order_as_int32_of_their_own():
    trace = toy_trace()
    records = list(trace)
    assert [r[:3] for r in records] == sorted(r[:3] for r in records)
    assert trace.num_records == len(records) == 12
    for record in records:
        assert record.loads.dtype == np.int32
        assert record.loads.flags.c_contiguous
        assert isinstance(record.step, int)
        record.loads[:] = -1
    assert same(trace, toy_trace())


def test_axes_present():
    trace = toy_trace()
    assert trace.steps.tolist() == [0, 1, 2]
    assert trace.micro_batches.tolist() == [0, 1]
    assert trace.layers.tolist() == [0, 1]


def test_from_records_equals_from_arrays():
    trace = toy_trace()
    again = Trace.from_records(trace.meta, iter(trace))
    assert same(trace, again)
    assert again.digest == trace.digest


def test_digest_depends_on_content_and_metadata():
    meta = toy_meta()
    assert toy_trace(meta).digest != toy_trace(meta, seed=1).digest
    assert toy_trace(meta).digest != toy_trace(meta.with_note("seed", 1)).digest
    assert toy_trace(meta).select(steps=1).digest == toy_trace(meta).digest


ranges = st.one_of(
    st.none(),
    st.integers(0, 9),
    st.builds(
        lambda start, length, stride: slice(start, start + length, stride),
        st.integers(0, 9),
        st.integers(1, 9),
        st.one_of(st.none(), st.integers(1, 3)),
    ),
)


@given(steps=ranges, micro_batches=ranges, layers=ranges)
@settings(max_examples=40, deadline=None)
def test_selecting_equals_filtering(steps, micro_batches, layers, tmp_path_factory):
    meta = toy_meta()
    keys, loads = toy_arrays(meta, steps=4, micro_batches=3)
    keys[:, 0] = keys[:, 0] * 2 + 1
    trace = Trace.from_arrays(meta, *keys.T, loads)
    path = trace.write(tmp_path_factory.mktemp("select") / "t.parquet")

    def keeps(value, wanted):
        if wanted is None:
            return True
        if isinstance(wanted, int):
            return value == wanted
        return value in range(wanted.start, wanted.stop, wanted.step or 1)

    expected = [
        r
        for r in trace
        if keeps(r.step, steps) and keeps(r.micro_batch, micro_batches) and keeps(r.layer, layers)
    ]
    for whole in (trace, Trace.read(path)):
        view = whole.select(steps=steps, micro_batches=micro_batches, layers=layers)
        found = list(view)
        assert [r[:3] for r in found] == [r[:3] for r in expected]
        assert all(np.array_equal(a.loads, b.loads) for a, b in zip(found, expected, strict=True))
        assert view.num_records == len(expected)
        assert set(view.steps.tolist()) == {r.step for r in expected}


def test_selections_compose_and_are_labelled():
    trace = toy_trace(steps=6)
    view = trace.select(steps=slice(0, 6, 2)).select(steps=slice(2, 9), layers=slice(1, 2))
    assert view.steps.tolist() == [2, 4]
    assert view.layers.tolist() == [1]
    assert view.meta.sampling == {"step_every": 2, "layers": [1]}
    assert [s["first"] for s in view.meta.notes["selected"]["steps"]] == [0, 2]
    assert trace.meta.sampling == {}


@pytest.mark.parametrize("bad", [slice(-1, 3), slice(3, 3), slice(0, 3, 0), "all", 1.5, True])
def test_a_senseless_selection_is_refused(bad):
    with pytest.raises(TraceError, match="select"):
        toy_trace().select(steps=bad)


def test_a_view_survives_pickling_to_a_worker():
    trace = toy_trace().with_sources(2).rescaled(9).select(steps=1)
    assert same(pickle.loads(pickle.dumps(trace)), trace)


def broken(change):
    meta = toy_meta()
    keys, loads = toy_arrays(meta)
    change(keys, loads)
    return lambda: Trace.from_arrays(meta, *keys.T, loads)


def double(keys, loads):
    keys[3] = keys[2]


def swap(keys, loads):
    keys[[3, 4]] = keys[[4, 3]]


def outside(keys, loads):
    keys[-1, 2] = 2


def before_zero(keys, loads):
    keys[0, 0] = -1


def negative(keys, loads):
    loads[5, 2, 7] = -1


def odd(keys, loads):
    loads[5, 2, 0] += 1


def other_sum(keys, loads):
    loads[5, 2, :] = 2


def repeated(keys, loads):
    loads[4, 1] = [8, 4, 0, 0, 0, 0, 0, 0]
    loads[5, 1] = [6, 6, 0, 0, 0, 0, 0, 0]


def hollow(keys, loads):
    loads[6:8] = 0


def overflow(keys, loads):
    loads[6:8, :, :2] = 2**30


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (double, "step 0, micro-batch 1, layer 0: the record appears twice"),
        (swap, "out of order"),
        (outside, "layers 0..1"),
        (before_zero, "from 0"),
        (negative, "step 1, micro-batch 0, layer 1, source rank 2, expert 7: a count is negative"),
        (odd, "source rank 2: the sum of a row is not a multiple of top_k = 2"),
        (other_sum, "source rank 2: the sum of a row differs from layer 0's 12"),
        (repeated, "step 1, micro-batch 0, layer 0, source rank 1, expert 0: an expert has more"),
        (hollow, "step 1, micro-batch 1, layer 0: the record holds no token"),
        (overflow, "the record's sum reaches 2^31"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(change, says):
    with pytest.raises(TraceError) as caught:
        broken(change)()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loads",
    [
        np.zeros((1, 4, 8)),
        np.full((1, 4, 8), np.nan),
        np.ones((1, 4, 9), dtype=int),
        np.ones((4, 8), dtype=int),
        np.ones((0, 4, 8), dtype=int),
        np.full((1, 4, 8), 2**40),
        np.ones((2, 4, 8), dtype=int),
        [[[1, 2], [3]]],
        "loads",
        None,
    ],
)
def test_arrays_of_wrong_kind_are_refused(loads):
    with pytest.raises(TraceError):
        Trace.from_arrays(toy_meta(), [0], [0], [0], loads)


def test_records_of_wrong_shape_are_refused():
    with pytest.raises(TraceError, match="at least one record"):
        Trace.from_records(toy_meta(), [])
    with pytest.raises(TraceError, match="do not have the shape"):
        Trace.from_records(toy_meta(), [Record(0, 0, 0, np.ones((2, 8), dtype=np.int32))])


def test_repr_tells_what_it_is():
    assert "8 experts top-2" in repr(toy_trace())
    assert "SYNTHETIC" in repr(toy_trace())
