from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.engine.geometry import divide, even, stand_ins
from ultraep_sim.model import get_model


def test_deepseek_on_four_stages() -> None:
    counts = even(61, 4)
    assert counts == (16, 15, 15, 15)
    moe, dense = divide(get_model("deepseek-v3-671b"), counts)
    assert moe == ((0, 13), (13, 28), (28, 43), (43, 58))
    assert dense == (3, 0, 0, 0)


@given(st.integers(1, 64), st.data())
def test_every_layer_runs_somewhere_once(stages, data) -> None:  # type: ignore[no-untyped-def]
    shape = get_model(data.draw(st.sampled_from(["deepseek-v3-671b", "qwen3-235b", "kimi-k2"])))
    counts = even(shape.layers, min(stages, shape.layers))
    assert sum(counts) == shape.layers
    assert max(counts) - min(counts) <= 1
    moe, dense = divide(shape, counts)
    assert sum(dense) == shape.dense_layers
    assert [layer for a, b in moe for layer in range(a, b)] == list(range(shape.moe_layers))


@pytest.mark.parametrize(
    ("how", "wanted"), [("cycle", [0, 1, 2, 0, 1, 2, 0]), ("stretch", [0, 0, 0, 1, 1, 2, 2])]
)
def test_stand_ins(how, wanted) -> None:  # type: ignore[no-untyped-def]
    assert stand_ins(7, 3, how).tolist() == wanted
    np.testing.assert_array_equal(stand_ins(5, 5, how), np.arange(5))
