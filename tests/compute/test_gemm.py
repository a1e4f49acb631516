from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.compute.gemm import expert_backward, expert_forward
from ultraep_sim.errors import ProfileError
from ultraep_sim.model import AttentionShape, GpuProfile, ModelShape, get_model, get_rack

# Round numbers to compute by hand: an expert has 3 x 4096 x 1000 parameters.
SHAPE = ModelShape(
    "toy", layers=1, hidden=4096, expert_ffn=1000, num_experts=4, top_k=2,
    attention=AttentionShape(4, 4, 8),
)  # fmt: skip
PARAMS = 3 * 4096 * 1000


def gpu(**numbers: float) -> GpuProfile:
    base = {
        "expert_forward_TFLOPs": 100,
        "expert_backward_TFLOPs": 50,
        "expert_launch_us": 7,
        "expert_pair_ns": 2,
        "hbm_achieved_TBps": 1,
    }
    rack = get_rack("paper-rack64").with_overrides({"gpu": base | numbers})
    return rack.gpu


PAIRS = np.array([[0, 130, 128], [1, 1000, 0]])
TILES = np.array([[[0, 0], [2, 0], [0, 1]], [[1, 0], [1, 7], [0, 0]]])


def test_forward_by_hand() -> None:
    got = expert_forward(SHAPE, gpu(), PAIRS, TILES)
    tile = 128 * 2 * PARAMS / 100e12
    read = PARAMS * 2 / 1e12
    want = [
        [0, 7e-6 + max(read, 2 * tile) + 130 * 2e-9, 7e-6 + max(read, tile) + 128 * 2e-9],
        [7e-6 + max(read, tile) + 2e-9, 7e-6 + 8 * tile + 1000 * 2e-9, 0],
    ]
    np.testing.assert_allclose(got, want)


def test_backward_by_hand() -> None:
    got = expert_backward(SHAPE, gpu(), PAIRS, TILES)
    tile = 128 * 2 * PARAMS / 50e12
    read, gradient = PARAMS * 2 / 1e12, PARAMS * 8 / 1e12
    two = max(read, 2 * tile) + max(gradient, 2 * tile)
    assert got[0, 0] == 0
    assert got[0, 1] == pytest.approx(2 * (7e-6 + 130 * 2e-9) + two)
    assert got[1, 1] == pytest.approx(2 * (7e-6 + 2e-6) + (8 + 7) * tile + gradient)
    assert got[1, 2] == 0


def test_a_cold_instance_waits_for_its_weights_beside_a_hot_one() -> None:
    slow = gpu(hbm_achieved_TBps=0.5)
    read, gradient = PARAMS * 2 / 0.5e12, PARAMS * 8 / 0.5e12
    counts = np.array([1000]), np.array([[1, 7]])
    tile = 128 * 2 * PARAMS / 100e12
    assert tile < read < 2 * read < 8 * tile  # one maximum for the rank would see arithmetic alone
    want = 7e-6 + read + 7 * tile + 1000 * 2e-9
    assert expert_forward(SHAPE, slow, *counts) == pytest.approx(want)
    want = 2 * (7e-6 + 1000 * 2e-9) + 2 * 8 * tile + gradient + 2 * 7 * tile
    assert expert_backward(SHAPE, slow, *counts) == pytest.approx(want)


def test_few_tokens_are_bound_by_reading_weights() -> None:
    slow = gpu(hbm_achieved_TBps=0.1)
    one = expert_forward(SHAPE, slow, np.array([1]), np.array([[1]]))
    many = expert_forward(SHAPE, slow, np.array([128]), np.array([[1]]))
    assert many - one == pytest.approx(127 * 2e-9)
    assert one == pytest.approx(7e-6 + PARAMS * 2 / 0.1e12 + 2e-9)


def test_pair_cost_grows_with_hidden() -> None:
    wide = replace(SHAPE, hidden=8192)
    free = {"expert_forward_TFLOPs": 1e9, "bf16_TFLOPs": 1e9, "expert_launch_us": 0}
    rich = gpu(**free, hbm_achieved_TBps=1e9, hbm_TBps=1e9)
    counts = np.array([10_000]), np.array([[79]])
    narrow = expert_forward(SHAPE, rich, *counts)
    assert expert_forward(wide, rich, *counts) == pytest.approx(2 * narrow, rel=1e-3)


def test_dtype_sets_rate_and_bytes() -> None:
    big = np.array([1 << 16]), np.array([[1 << 8, 1 << 8]])
    rates = gpu(expert_launch_us=0, expert_pair_ns=0)
    bf16 = expert_forward(SHAPE, rates, *big)
    fp8 = expert_forward(SHAPE, rates, *big, dtype="fp8")
    assert bf16 / fp8 == pytest.approx(rates.fp8_speedup.value)
    with pytest.raises(ProfileError, match="no fp4"):
        expert_forward(SHAPE, get_rack("h200-nvl8").gpu, *big, dtype="fp4")


def test_published_ideal_row_in_its_own_units() -> None:
    """65,536 pairs of Qwen3-235B on two experts: 2.47 TFLOP at 1.31 PFLOP/s, 4.95 at 1.145."""
    qwen, paper = get_model("qwen3-235b"), get_rack("paper-rack64").gpu
    counts = np.array([65_536]), np.array([[256, 256]])
    assert expert_forward(qwen, paper, *counts) == pytest.approx(1.89e-3, rel=0.005)
    assert expert_backward(qwen, paper, *counts) == pytest.approx(4.32e-3, rel=0.005)


@given(
    quotas=st.lists(st.integers(0, 5000), min_size=1, max_size=6),
    extra=st.integers(1, 4000),
    index=st.integers(0, 5),
    tile_rows=st.sampled_from([64, 128, 256]),
    rack=st.sampled_from(["h100-nvl8", "gb200-nvl72", "paper-rack64"]),
)
def test_more_load_is_never_faster(
    quotas: list[int], extra: int, index: int, tile_rows: int, rack: str
) -> None:
    more = quotas.copy()
    more[index % len(more)] += extra
    shape, profile = get_model("qwen3-30b"), get_rack(rack).gpu
    for law in (expert_forward, expert_backward):
        before, after = (
            law(
                shape, profile, np.array([sum(q)]), np.array([[-(-x // tile_rows) for x in q]]),
                tile_rows=tile_rows,
            )
            for q in (quotas, more)
        )  # fmt: skip
        assert after >= before
        assert after > 0


@given(
    tiles=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any),
    rack=st.sampled_from(["h100-nvl8", "gb200-nvl72", "paper-rack64"]),
    dtype=st.sampled_from(["bf16", "fp8"]),
)
def test_a_rank_takes_no_less_than_its_sums_say_and_exactly_that_if_its_instances_are_alike(
    tiles: list[int], rack: str, dtype: str
) -> None:
    """One maximum for the whole rank is the limit for balanced loads, and a lower bound."""
    shape, profile = get_model("qwen3-30b"), get_rack(rack).gpu
    some = [t for t in tiles if t]
    pairs = np.array([128 * sum(some)])

    def whole(count: int, total: int, direction: str) -> float:
        math = total * 128 * shape.flops_per_pair / profile.rate("expert", direction, dtype)  # type: ignore[arg-type]
        read = count * shape.expert_bytes(dtype) / profile.memory_rate
        gradient = count * 8 * shape.expert_params / profile.memory_rate
        each = profile.expert_launch_us.si
        each += profile.expert_pair_ns.si * shape.hidden / 4096 * float(pairs[0])
        if direction == "forward":
            return each + max(read, math)
        return 2 * each + max(read, math) + max(gradient, math)

    for law, direction in ((expert_forward, "forward"), (expert_backward, "backward")):
        got = law(shape, profile, pairs, np.array([tiles]), dtype=dtype)[0]
        assert got >= whole(len(some), sum(some), direction) * (1 - 1e-12)
        alike = np.full((1, len(some)), some[0])
        pairs = np.array([128 * alike.sum()])
        got = law(shape, profile, pairs, alike, dtype=dtype)[0]
        assert got == pytest.approx(whole(len(some), int(alike.sum()), direction), rel=1e-12)
        pairs = np.array([128 * sum(some)])


@given(
    tiles=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    give=st.integers(0, 5),
    take=st.integers(0, 5),
)
def test_evening_out_two_instances_never_takes_longer(
    tiles: list[int], give: int, take: int
) -> None:
    """The sum is convex in the tiles of an instance: skew inside a rank never helps."""
    shape, profile = get_model("qwen3-30b"), get_rack("h200-nvl8").gpu
    a, b = give % len(tiles), take % len(tiles)
    even = tiles.copy()
    if even[a] > even[b] + 1:
        even[a], even[b] = even[a] - 1, even[b] + 1
    pairs = np.array([128 * sum(tiles)])
    for law in (expert_forward, expert_backward):
        before, after = (law(shape, profile, pairs, np.array([t])) for t in (tiles, even))
        assert after <= before * (1 + 1e-12)
