from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.compute.attention import attention_time, core_flops
from ultraep_sim.compute.prefill_attention import (
    SELECT_LAUNCH,
    SELECT_TRAFFIC,
    chunk_core_flops,
    chunk_core_time,
    prefill_attention_time,
)
from ultraep_sim.model import MODELS, AttentionShape, ModelShape, get_model, get_rack
from ultraep_sim.scenario.serving import SparseSpec

H100 = get_rack("h100-nvl8").gpu
QWEN = get_model("qwen3-235b")
NOTHING_LEFT_OUT = SparseSpec(kept=1.0, sampled_rows=0.0, overhead=0.0)

TOY = ModelShape(
    "toy", layers=2, hidden=64, expert_ffn=32, num_experts=8, top_k=2,
    attention=AttentionShape(heads=4, kv_heads=2, head_dim=16),
)  # fmt: skip
GPU = (
    get_rack("paper-rack64")
    .with_overrides(
        {
            "gpu": {
                "dense_forward_TFLOPs": 100,
                "attention_forward_TFLOPs": 80,
                "hbm_achieved_TBps": 2,
            }
        }
    )
    .gpu
)


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def cut(length: int, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and count of the chunks of one prompt."""
    start = np.arange(0, length, budget)
    return start, np.minimum(budget, length - start)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 4096, 100_003])
def test_a_prompt_in_one_chunk_takes_what_a_sequence_takes(name: str, length: int) -> None:
    shape = get_model(name)
    (got,) = prefill_attention_time(shape, H100, array(0), array(0), array(length), 1)
    want = attention_time(shape, H100, length, length)
    if shape.attention.window:
        assert got == pytest.approx(want, rel=1e-14)
    else:
        assert got == want


@given(
    counts=st.lists(st.integers(1, 5000), min_size=1, max_size=12),
    name=st.sampled_from(["qwen3-235b", "deepseek-v3-671b", "gpt-oss-120b"]),
)
def test_a_prompt_costs_the_same_operations_however_it_is_cut(counts, name) -> None:  # type: ignore[no-untyped-def]
    shape = get_model(name)
    count = np.array(counts)
    start = np.cumsum(count) - count
    total = int(count.sum())
    want = core_flops(shape, total, total)
    assert chunk_core_flops(shape.attention, start, count).sum() == pytest.approx(want, rel=1e-12)


def test_two_ranks_by_hand() -> None:
    """Rank 0: two chunks, one of them deep in its prompt. Rank 1 idles. Rank 2: one chunk."""
    rank, start, count = array(2, 0, 0), array(0, 50, 0), array(3000, 1000, 2000)
    got = prefill_attention_time(TOY, GPU, rank, start, count, 3)
    params = 64 * (4 + 2 + 2) * 16 + 4 * 16 * 64
    keys = {2: 3000 * 3001 / 2, 0: 1000 * 50 + 1000 * 1001 / 2 + 2000 * 2001 / 2}
    assert got[1] == 0
    for r in (0, 2):
        projections = max(2 * params * 3000 / 100e12, params * 2 / 2e12)
        core = 2 * keys[r] * 4 * 32 / 80e12
        elementwise = 3000 * (10 * 64 + 2 * 6 * 16) * 2 / 2e12
        assert got[r] == pytest.approx(projections + core + elementwise)


def test_few_queries_far_into_a_prompt_wait_for_keys_and_values() -> None:
    def core(count: int, dtype: str = "bf16") -> float:
        return float(
            chunk_core_time(TOY.attention, GPU, array(10_000), array(count), kv_dtype=dtype)[0]
        )

    read = 10_000 * (2 * 2 * 16) * 2 / 2e12
    assert core(1) == core(2) == pytest.approx(read)
    assert core(1, "fp8") == pytest.approx(read * (1 + 4 / 128) / 2)
    assert core(4096) == pytest.approx(2 * (4096 * 10_000 + 4096 * 4097 / 2) * 4 * 32 / 80e12)


def test_a_window_bounds_what_is_read_and_seen() -> None:
    """Every layer with a window: a chunk costs the same wherever it begins past it."""
    a = AttentionShape(4, 2, 16, window=32, window_every=1)
    near, far = (chunk_core_time(a, GPU, array(s), array(8))[0] for s in (32, 1_000_000))
    assert near == far == pytest.approx(32 * 64 * 2 / 2e12)
    half = AttentionShape(4, 2, 16, window=32, window_every=2)
    full = chunk_core_time(TOY.attention, GPU, array(1_000_000), array(8))[0]
    got = chunk_core_time(half, GPU, array(1_000_000), array(8))[0]
    assert got == pytest.approx((near + full) / 2)


@given(
    segments=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 100_000), st.integers(1, 4096)), max_size=20
    ),
    sparse=st.sampled_from([None, SparseSpec()]),
)
def test_ranks_do_not_depend_on_each_other(segments, sparse) -> None:  # type: ignore[no-untyped-def]
    table = np.array(segments, np.int64).reshape(-1, 3)
    got = prefill_attention_time(QWEN, H100, *table.T, 5, sparse=sparse)
    assert got.dtype == np.float64
    assert got.shape == (5,)
    for r in range(5):
        own = table[table[:, 0] == r]
        alone = prefill_attention_time(QWEN, H100, *own.T, 5, sparse=sparse)
        assert alone[r] == got[r]
        assert (got[r] > 0) == (len(own) > 0)


@pytest.mark.parametrize("name", ["qwen3-235b", "deepseek-v3-671b", "gpt-oss-120b"])
def test_sparse_attention_that_keeps_all_is_dense(name: str) -> None:
    a = get_model(name).attention
    start, count = array(0, 5000, 100_000), array(4096, 100, 1)
    dense = chunk_core_time(a, H100, start, count)
    for sparse in (NOTHING_LEFT_OUT, SparseSpec(dense_heads=1.0)):
        assert chunk_core_time(a, H100, start, count, sparse=sparse).tolist() == dense.tolist()


def test_sparse_core_by_hand() -> None:
    """A quarter of MLA's heads dense; the others score sampled rows, which sums no values."""
    a = get_model("deepseek-v3-671b").attention
    sparse = SparseSpec(kept=0.2, dense_heads=0.25, sampled_rows=0.1)
    (got,) = chunk_core_time(a, H100, array(0), array(8192), sparse=sparse)
    keys = 8192 * 8193 / 2
    dense_heads = 32 * 2 * keys * (192 + 128)
    sparse_heads = 96 * (0.2 * 2 * keys * (192 + 128) + 0.1 * 2 * keys * 192)
    selecting = SELECT_LAUNCH.si + 8192 * 96 * SELECT_TRAFFIC.si / H100.memory_rate
    busy = (dense_heads + sparse_heads) / H100.rate("attention", "forward")
    assert got == pytest.approx(busy + selecting)


def test_layers_with_a_window_stay_dense() -> None:
    a = AttentionShape(4, 2, 16, window=32, window_every=1)
    args = (a, H100, array(0), array(9000))
    assert chunk_core_time(*args, sparse=SparseSpec()) == chunk_core_time(*args)


@pytest.mark.parametrize("name", ["qwen3-235b", "glm-4.7-358b"])
@pytest.mark.parametrize("rack", ["h100-nvl8", "paper-rack64"])
@pytest.mark.parametrize("budget", [4096, 1 << 20])
def test_gains_of_sparse_attention_vanish_below_about_32k_tokens(
    name: str, rack: str, budget: int
) -> None:
    """The published statement, for a prompt in chunks and in one piece."""
    a, gpu = get_model(name).attention, get_rack(rack).gpu

    def gain(length: int, sparse: SparseSpec) -> float:
        start, count = cut(length, budget)
        dense = chunk_core_time(a, gpu, start, count).sum()
        return float(dense / chunk_core_time(a, gpu, start, count, sparse=sparse).sum())

    lengths = [1 << k for k in range(12, 20)]
    gains = [gain(length, SparseSpec()) for length in lengths]
    assert gains == sorted(gains)
    assert gain(16_384, SparseSpec()) < 1 < gain(65_536, SparseSpec())
    assert gain(32_768, SparseSpec()) == pytest.approx(1.0, abs=0.25)
    assert gains[-1] < gain(lengths[-1], SparseSpec(overhead=0.0)) < 10
