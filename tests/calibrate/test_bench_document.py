"""Documents of ``hw_runtime bench`` are fitted; a CPU's numbers never become a GPU's."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from hw_runtime.bench.rows import (
    BlockRow,
    CopyRow,
    GemmRow,
    Machine,
    Measurements,
    PlannerRow,
    ReductionRow,
    RerouteRow,
    StreamRow,
    Timing,
)
from ultraep_sim.calibrate.bench.document import SCHEMA, read_document
from ultraep_sim.calibrate.bench.profile import calibrate_document
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.hardware import get_rack
from ultraep_sim.model.profile_file import read_profile, write_profile

MIB = 2**20
#: What the synthetic GPU does.
TRUE = {
    "gemm_bf16": {"launch_us": 40.0, "hbm_TBps": 2.9, "rate_TFLOPs": 700.0, "pair_ns": 8.0},
    "stream_hbm": {"base_us": 12.0, "rate_GBps": 2400.0, "relay_us": 9.0},
    "stream_nvlink": {"base_us": 10.0, "rate_GBps": 380.0},
    "reduction_hbm": {"base_us": 15.0, "rate_GBps": 2300.0, "sm_GBps": 28.0},
    "reroute_split": {"base_us": 4.0, "unit_ns": 0.6},
    "planner_ultraep": {"base_us": 9.0, "unit_ns": 1.5},
    "block_rank": {"base_us": 120.0, "unit_ns": 60.0},
}


class Bench:
    """Draw a document of a GPU with known laws, through the writer's own row types."""

    def __init__(self, seed=0, noise=0.02):
        self.rng, self.noise = np.random.default_rng(seed), noise

    def time(self, us):
        us *= float(np.exp(self.noise * self.rng.standard_normal()))
        return Timing(us, 0.98 * us, 1.03 * us, 30, "cuda_graph")

    def gemm(self):
        true = TRUE["gemm_bf16"]
        for hidden, ffn in ((4096, 1536), (7168, 2048)):
            for experts in (2, 4, 8):
                for tokens in (16, 64, 128, 256, 512, 1024, 2048, 4096):
                    weights = experts * 6 * hidden * ffn / true["hbm_TBps"] * 1e-6
                    rows = -(-tokens // 128) * 128 * experts
                    math = rows * 6 * hidden * ffn / true["rate_TFLOPs"] * 1e-6
                    pairs = experts * tokens * true["pair_ns"] * hidden / 4096 * 1e-3
                    us = true["launch_us"] + max(weights, math) + pairs
                    yield GemmRow(
                        self.time(us), [tokens] * experts, "bf16", experts, hidden, ffn,
                        float(tokens), "balanced", 1.0,
                    )  # fmt: skip
        yield GemmRow(self.time(99.0), [200, 40, 16, 0], "bf16", 4, 4096, 1536, 64.0, "skewed", 1.0)

    def stream(self):
        yield CopyRow(self.time(200.0), "hbm", 256 * MIB, 1300.0)
        true = TRUE["stream_hbm"]
        for size in (9 * MIB, 33 * MIB, 84 * MIB):
            for fan_out in (1, 2, 4, 7, 15, 31):
                for relay in (False, True) if fan_out >= 4 else (False,):
                    stored, loaded = size * fan_out, size * (3 if relay else 1)
                    us = true["base_us"] + relay * true["relay_us"]
                    us += (stored + loaded) / true["rate_GBps"] * 1e-3
                    yield StreamRow(
                        self.time(us), "hbm", size, fan_out, "relay" if relay else "direct",
                        stored, loaded, 1.0, 0.9,
                    )  # fmt: skip

    def reduction(self):
        true = TRUE["reduction_hbm"]
        for replicas in (1, 4, 6, 15):
            for sms in (None, 16, 32, 42, 64):
                moved = 2 * 72 * MIB * (1 + replicas)
                rate = min(true["rate_GBps"], true["sm_GBps"] * (sms or 132))
                us = true["base_us"] + moved / rate * 1e-3
                yield ReductionRow(
                    self.time(us), "hbm", 72 * MIB, "fp32", replicas, sms, moved, 1.0, 0.8
                )

    def routing(self):
        for ranks in (8, 16, 32, 64):
            for experts in (128, 256, 512):
                work = ranks * experts * 1e-3
                split, plan = TRUE["reroute_split"], TRUE["planner_ultraep"]
                us = split["base_us"] + split["unit_ns"] * work
                yield RerouteRow(self.time(us), "split", ranks, experts, 2, 8192, 8)
                us = plan["base_us"] + plan["unit_ns"] * work
                yield PlannerRow(self.time(us), "ultraep", ranks, experts, 2, 2.0, 1.01, 20)

    def block(self):
        true, pairs = TRUE["block_rank"], [500 * n for n in range(1, 17)]
        us = [self.time(true["base_us"] + true["unit_ns"] * n * 1e-3).median_us for n in pairs]
        yield BlockRow(
            self.time(max(us)),
            False,
            "none",
            us,
            [[n] for n in pairs],
            16,
            64,
            0,
            4096,
            1536,
            4096,
            8,
            "bf16",
            1.9,
        )

    def document(self, **machine):
        rows = [*self.gemm(), *self.stream(), *self.reduction(), *self.routing(), *self.block()]
        gpu = Machine("NVIDIA H100 80GB HBM3", "gpu", "sm_90", 1, 132)
        found = Measurements(
            "2026-01-01T00:00:00+00:00", "virtual", 0, replace(gpu, **machine), rows
        )
        return found.to_json()


def written(tmp_path, document):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(document))
    return file


@pytest.fixture(scope="module")
def document():
    return Bench().document()


def test_the_writers_own_reader_accepts_what_the_tests_draw(document):
    schema = pytest.importorskip("hw_runtime.bench.schema")
    assert schema.parse(copy.deepcopy(document)).to_json() == document
    assert schema.SCHEMA == SCHEMA


def test_known_laws_are_found_again(tmp_path, document):
    found = calibrate_document(read_document(written(tmp_path, document)), get_rack("h100-nvl8"))
    for name, true in TRUE.items():
        if name == "stream_nvlink":
            continue
        for parameter, value in true.items():
            low, high = found.fits[name].interval(parameter)
            slack = (high / low) ** 0.25  # three standard deviations: one document, 18 numbers
            assert low / slack <= value <= high * slack, (name, parameter, low, high)
    assert found.fits["gemm_bf16"].held_out.rows > 5
    assert found.fits["gemm_bf16"].held_out.p90 < 0.08


def test_the_rack_gets_grouped_products_but_no_link_of_virtual_ranks(tmp_path, document):
    base = get_rack("h100-nvl8")
    found = calibrate_document(read_document(written(tmp_path, document)), base)
    rack = found.rack
    assert rack.gpu.expert_forward_TFLOPs.provenance == "fitted"
    assert "NVIDIA H100" in rack.gpu.expert_forward_TFLOPs.source
    rate = rack.gpu.expert_forward_TFLOPs
    assert rate.low <= 700 <= rate.high < 1.15 * rate.low
    for name in ("stream_GBps", "stream_base_us", "relay_us", "grad_reduce_GBps"):
        assert getattr(rack, name) == getattr(base, name)
    assert "no link" in found.unfitted["stream_hbm, rack"]
    write_profile(tmp_path / "h100.yaml", rack, found.notes())
    assert read_profile(tmp_path / "h100.yaml") == rack


def test_links_are_fitted_where_a_link_was_crossed(tmp_path, document):
    true, rows = TRUE["stream_nvlink"], []
    bench = Bench(1)
    for size in (9 * MIB, 33 * MIB, 84 * MIB):
        for fan_out in (1, 2, 4, 7):
            us = true["base_us"] + size * fan_out / true["rate_GBps"] * 1e-3
            time = bench.time(us)
            rows.append(
                {
                    "kind": "stream", "time": {"median_us": time.median_us}, "path": "nvlink",
                    "expert_bytes": size, "fan_out": fan_out, "transport": "direct",
                    "stored_bytes": size * fan_out, "loaded_bytes": size,
                }
            )  # fmt: skip
    mine = {**document, "fabric": "symm", "rows": rows}
    found = calibrate_document(read_document(written(tmp_path, mine)), get_rack("h100-nvl8"))
    assert found.rack.stream_GBps.value == pytest.approx(380, rel=0.02)
    assert found.rack.stream_base_us.low <= 10 <= found.rack.stream_base_us.high


def test_a_cpu_is_labelled_and_never_taken_for_a_gpu(tmp_path, document):
    for change in ({"fabric": "host"}, {"machine": {**document["machine"], "kind": "cpu"}}):
        read = read_document(written(tmp_path, {**document, **change}))
        assert not read.is_gpu
        found = calibrate_document(read, None)
        assert found.title.startswith("HOST, no GPU")
        assert all(name.startswith("host_") for name in found.fits)
        assert found.rack is None
        assert not found.numbers
        assert any("none of these numbers is a GPU's" in text for text in found.warnings)
        with pytest.raises(CalibrationError, match="no rack gets its numbers"):
            calibrate_document(read, get_rack("h100-nvl8"))


def test_another_gpu_than_the_racks_is_refused(tmp_path, document):
    read = read_document(written(tmp_path, document))
    with pytest.raises(CalibrationError, match=r"has another GPU \(gb200\)"):
        calibrate_document(read, get_rack("gb200-nvl72"))


def test_too_few_rows_are_told_and_not_fitted(tmp_path, document):
    rows = [row for row in document["rows"] if row["kind"] != "gemm"]
    rows += [row for row in document["rows"] if row["kind"] == "gemm"][:3]
    found = calibrate_document(read_document(written(tmp_path, {**document, "rows": rows})), None)
    assert "need more rows" in found.unfitted["gemm_bf16"]
    assert "stream_hbm" in found.fits


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"schema": "hw_runtime.bench/1"}, "schema: expected schema hw_runtime.bench/2"),
        ({"machine": {"kind": "tpu"}}, "machine: no machine, or of no kind"),
        ({"rows": []}, "rows: no timed rows"),
        ({"rows": [{"kind": "gemm"}]}, "rows: no timed rows"),
    ],
)
def test_a_damaged_document_is_an_error(tmp_path, document, change, needle):
    with pytest.raises(CalibrationError) as caught:
        read_document(written(tmp_path, {**document, **change}))
    assert needle in str(caught.value)
    assert "bench.json" in str(caught.value)


@pytest.mark.parametrize("value", [None, "9", 0, -4, float("nan"), True])
def test_a_wrong_number_is_named_with_its_row(tmp_path, document, value):
    broken = copy.deepcopy(document)
    broken["rows"][5]["time"]["median_us"] = value
    read = read_document(written(tmp_path, broken))
    with pytest.raises(CalibrationError, match=r"rows\[5\].median_us: not a positive number"):
        calibrate_document(read, None)
