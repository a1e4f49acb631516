"""Readers of the kernel tables, on a committed excerpt and on tables that are wrong."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultraep_sim.calibrate.fit import fit
from ultraep_sim.calibrate.silicon import alltoall, attention, moe, nccl, tables
from ultraep_sim.compute.attention import attention_time, core_flops
from ultraep_sim.compute.kernel_laws import attention_core, grouped_gemm
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.hardware import GPUS, RACKS
from ultraep_sim.model.shapes import MODELS
from ultraep_sim.validate import silicon_kernels

from .excerpt_path import EXCERPT


@pytest.fixture(scope="module")
def table():
    return moe.read_moe(EXCERPT, "h200", "trtllm")


@pytest.fixture(scope="module")
def case(table):
    found = moe.cases(table, "h200", "trtllm")
    assert [c.precision for c in found] == ["bfloat16", "fp8_block"]
    return found[0]


def test_tables_are_found_by_directory_environment_or_package(monkeypatch, tmp_path):
    assert tables.find_tables(EXCERPT) == EXCERPT
    monkeypatch.setenv(tables.DIRECTORY, str(EXCERPT))
    assert tables.find_tables() == EXCERPT
    monkeypatch.setenv(tables.DIRECTORY, str(tmp_path))
    with pytest.raises(CalibrationError, match="no kernel tables"):
        tables.find_tables()
    monkeypatch.delenv(tables.DIRECTORY)
    monkeypatch.setattr(tables, "DISTRIBUTION", "no-such-package-here")
    with pytest.raises(CalibrationError, match=r"pip install 'ultraep-sim\[silicon\]'"):
        tables.find_tables()


def test_tokens_are_global_to_the_group(table, case):
    rows = moe.balanced_rows(table, case)
    at = rows.keys.index(f"{case.name}/4096/ep8")
    pairs, instances = (rows.columns[name][at] for name in ("pairs", "instances"))
    assert instances == 16
    assert (pairs * instances).sum() == 4096 * 8 / 8
    assert rows.columns["hosted"][at] == 16
    raw = moe.rows_of(table, case).where(num_tokens=4096, moe_ep_size=8).columns["latency"]
    assert rows.seconds[at] == pytest.approx(raw[0] * 1e-3)


def test_few_tokens_touch_few_experts(table, case):
    rows = moe.balanced_rows(table, case)
    touched = rows.columns["instances"][rows.keys.index(f"{case.name}/1/ep1")]
    assert touched == 8
    # Twice the experts take nearly twice as long: their weights are what is read.
    two = rows.seconds[rows.keys.index(f"{case.name}/2/ep1")]
    assert 1.6 < two / rows.seconds[rows.keys.index(f"{case.name}/1/ep1")] < 2


def test_ranks_with_one_expert_are_left_out(table, case):
    assert max(moe.rows_of(table, case).columns["moe_ep_size"]) == 64


def test_the_law_fits_held_out_rows(table, case):
    found = fit(
        grouped_gemm, moe.parameters(GPUS["h200"], "bfloat16"), moe.balanced_rows(table, case)
    )
    assert found.held_out.rows > 30
    assert found.held_out.median < 0.03
    assert found.held_out.p90 < 0.10
    assert found.values["hbm_TBps"] <= 4.8
    assert found.values["rate_TFLOPs"] <= 989


def test_a_synthetic_table_with_known_parameters_is_recovered(tmp_path, case):
    """Through file and reader: what was put into a table comes out of the fit."""
    true = {
        "launch_us": 25.0, "hbm_TBps": 4.0, "rate_TFLOPs": 700.0, "pair_ns": 12.0, "token_ns": 4.0,
    }  # fmt: skip
    model = MODELS["qwen3-235b"]
    tokens, ranks = (a.ravel() for a in np.meshgrid(2 ** np.arange(15), 2 ** np.arange(7)))
    pairs = tokens * 8 / ranks
    touched = np.minimum(128 // ranks, np.maximum(np.rint(pairs), 1))
    columns = moe.work(
        model,
        "bfloat16",
        pairs=(np.maximum(pairs, 1) / touched)[:, None],
        instances=touched[:, None],
        hosted=128 // ranks,
        tokens=tokens,
    )
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(tokens)))
    body = {
        "kernel_source": [case.kernel] * len(tokens),
        "moe_dtype": ["bfloat16"] * len(tokens),
        "num_tokens": tokens,
        "hidden_size": np.full(len(tokens), 4096),
        "inter_size": np.full(len(tokens), 1536),
        "topk": np.full(len(tokens), 8),
        "num_experts": np.full(len(tokens), 128),
        "moe_tp_size": np.ones(len(tokens), dtype=np.int64),
        "moe_ep_size": ranks,
        "distribution": ["balanced"] * len(tokens),
        "latency": grouped_gemm(true, columns) * noise * 1e3,
    }
    file = tmp_path / "h200_sxm/moe/trtllm/1/moe_perf.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(body), file)
    table = moe.read_moe(tables.find_tables(tmp_path), "h200", "trtllm")
    found = fit(
        grouped_gemm,
        moe.parameters(GPUS["h200"], "bfloat16", plain=True),
        moe.balanced_rows(table, case),
    )
    for name, value in true.items():
        assert abs(np.log(found.values[name] / value)) < 4 * found.relative_sd(name), name
        assert found.relative_sd(name) < 0.2, name
    assert found.held_out.median < 0.02


def test_bad_tables_are_named(tmp_path):
    file = tmp_path / "h200_sxm/moe/trtllm/1/moe_perf.parquet"
    with pytest.raises(CalibrationError, match="no such table"):
        moe.read_moe(tmp_path, "h200", "trtllm")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not parquet")
    with pytest.raises(CalibrationError, match="not a readable Parquet file"):
        moe.read_moe(tmp_path, "h200", "trtllm")
    file.unlink()
    other = file.with_name("moe_perf.parquet")
    pq.write_table(pa.table({"latency": [1.0]}), other)
    with pytest.raises(CalibrationError, match="kernel_source"):
        moe.read_moe(tmp_path, "h200", "trtllm")
    with pytest.raises(CalibrationError, match="unknown system"):
        tables.table_path(tmp_path, "h800", "moe", "trtllm", "moe_perf")


def test_nccl_sizes_are_elements():
    rows = nccl.nccl_rows(EXCERPT, "h200", "alltoall", 8)
    half, byte = (rows.keys.index(f"h200/alltoall/{d}/n8/1048576") for d in ("half", "int8"))
    wire = rows.columns["wire_bytes"]
    assert wire[half] == 2 * 2**20 * 7 / 8
    assert wire[byte] == 2**20 * 7 / 8
    # Taken as bytes, the same bytes would take different times.
    same = rows.keys.index("h200/alltoall/int8/n8/2097152")
    assert rows.seconds[half] == pytest.approx(rows.seconds[same], rel=0.25)
    with pytest.raises(CalibrationError, match="unknown collective"):
        nccl.nccl_rows(EXCERPT, "h200", "broadcast", 8)


def test_multi_node_rows_of_h200_are_copies_and_single_node_rows_are_not():
    old = [
        alltoall.read_alltoall(EXCERPT, alltoall.versions(EXCERPT, s)[0]) for s in ("h100", "h200")
    ]
    one, other = (t.mask(t.columns["node_num"] > 1) for t in old)
    assert len(other) > 10
    copied = alltoall.copied_rows(one, other)
    assert copied > len(other) / 2
    fresh = alltoall.read_alltoall(EXCERPT, alltoall.versions(EXCERPT, "h200")[-1])
    assert alltoall.copied_rows(one, fresh) == 0


def test_a_token_goes_once_to_each_rank():
    rows = alltoall.phase_rows(
        alltoall.read_alltoall(EXCERPT, alltoall.versions(EXCERPT, "h200")[-1]), "h200", "combine"
    )
    top = [key for key in rows.keys if "/k8/" in key and "/t1024/" in key]
    moved = rows.columns["bytes"][rows.keys.index(top[0])] / (1024 * 4096 * 2)
    assert 4 < moved < 7  # of 7 other ranks, with 8 experts


def test_attention_counts_the_unmasked_part():
    rows = attention.context_rows(EXCERPT, "h200")
    at = rows.keys.index("h200/trtllm/1x4096/heads64/kv8")
    assert rows.columns["flops"][at] == 4 * 64 * 128 * 4096 * 4097 / 2
    assert len(set(rows.keys)) == len(rows)


def test_attention_launches_blocks_in_waves_and_waits_for_the_longest():
    rows = attention.context_rows(EXCERPT, "h200")
    at = rows.keys.index("h200/trtllm/1x4096/heads64/kv8")
    assert rows.columns["blocks"][at] == 64 * 4096 / 128
    # The last block of a head sees all keys.
    assert rows.columns["longest_flops"][at] == 4 * 128 * 128 * 4096
    short = rows.take(rows.columns["length"] <= 64)
    parameters = attention.parameters(GPUS["h200"])
    plain = [p for p in parameters if p.name not in ("block_us", "tail")]
    median = [
        np.median(
            np.abs(fit(attention_core, some, rows).predict(short.columns) / short.seconds - 1)
        )
        for some in (parameters, plain)
    ]
    assert median[0] < 0.05 < 0.1 < median[1]


def test_latent_attention_has_the_simulators_operations():
    rows = attention.mla_rows(EXCERPT, "h200")
    at = rows.keys.index("h200/trtllm/mla/1x8192/heads128")
    shape = MODELS["deepseek-v3-671b"]
    assert rows.columns["flops"][at] == pytest.approx(core_flops(shape, 8192, 8192), rel=1e-12)
    found = fit(attention_core, attention.parameters(GPUS["h200"]), rows)
    assert found.held_out.rows > 50
    assert found.held_out.median < 0.07
    # Operations counted twice, or half of them, would put the rate past the peak or below a third.
    assert 0.5 * 989 < found.values["rate_TFLOPs"] < 0.75 * 989


def test_the_simulators_attention_block_is_put_beside_measured_ones():
    judged = silicon_kernels._mla_block(EXCERPT, "h200", RACKS["h200-nvl8"])
    at = judged.rows.keys.index("h200/trtllm/mla_block/2x8192")
    simulated = judged.found.predict(judged.rows.columns)
    model = MODELS["deepseek-v3-671b"]
    assert simulated[at] == attention_time(model, GPUS["h200"], 2 * 8192, 8192)
    assert min(judged.rows.columns["tokens"]) == 1024
    assert judged.role == "predicted"
    assert judged.found.held_out.rows == len(judged.rows) > 50
    # Blocks of many tokens, which cost milliseconds: nothing here was fitted to this table.
    many = judged.rows.columns["tokens"] >= 4096
    assert abs(np.median(simulated[many] / judged.rows.seconds[many]) - 1) < 0.2
