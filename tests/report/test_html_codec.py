from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.report.html_codec import Pack, unpack

INTS = st.integers(0, 2**31 - 1)


@given(st.lists(st.tuples(st.lists(INTS, max_size=40), st.integers(0, 7)), min_size=1, max_size=4))
def test_what_is_packed_comes_back(arrays) -> None:
    pack = Pack()
    for at, (values, lag) in enumerate(arrays):
        pack.add(str(at), np.array(values, np.int64), lag)
    found = unpack(pack.text(), pack.index)
    for at, (values, _) in enumerate(arrays):
        assert found[str(at)].tolist() == values


def test_rows_like_the_row_before_are_small() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 60_000, 64) + rng.integers(0, 20, (200, 64))
    alike, plain = Pack(), Pack()
    alike.add("rows", rows, 64)
    plain.add("rows", rows)
    assert len(alike.text()) < 0.8 * len(plain.text())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError, match="four bytes"):
        Pack().add("x", [2**32])
