from __future__ import annotations

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.commands.loads_file import read_loads
from ultraep_sim.errors import LoadsError


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


GOOD = saved(np.arange(1, 33, dtype=np.int32).reshape(4, 8))
EDITS = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 30), st.binary(max_size=20)), max_size=3
)


@settings(max_examples=400, deadline=None)
@given(edits=EDITS)
def test_any_bytes_are_loads_or_a_loads_error(edits, tmp_path_factory):
    raw = GOOD
    for at, length, new in edits:
        raw = raw[:at] + new + raw[at + length :]
    file = tmp_path_factory.getbasetemp() / "fuzz.npy"
    file.write_bytes(raw)
    try:
        array = read_loads(file)
    except LoadsError as error:
        message = str(error)
    else:
        message = "fuzz.npy"
        assert array.dtype.kind in "iu"
        assert array.ndim in (1, 2)
        assert array.any()
    assert "fuzz.npy" in message
    assert "\n" not in message


def test_what_numpy_saves_is_what_is_read(tmp_path):
    for array in (
        np.arange(1, 9),
        np.arange(1, 33, dtype=np.uint16).reshape(4, 8),
        np.asfortranarray(np.arange(1, 33, dtype=">i4").reshape(4, 8)),
    ):
        (tmp_path / "a.npy").write_bytes(saved(array))
        np.testing.assert_array_equal(read_loads(tmp_path / "a.npy"), array)
