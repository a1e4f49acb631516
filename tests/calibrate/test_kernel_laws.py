"""Limits of the kernel laws, and agreement with the simulator's own."""

from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.compute.gemm import expert_forward
from ultraep_sim.compute.kernel_laws import collective, exchange, grouped_gemm, roofline
from ultraep_sim.model.hardware import GPUS
from ultraep_sim.model.shapes import MODELS

SHAPE, GPU = MODELS["qwen3-235b"], GPUS["h200"]
VALUES = {
    "launch_us": GPU.expert_launch_us.value,
    "hbm_TBps": GPU.hbm_achieved_TBps.value,
    "rate_TFLOPs": GPU.expert_forward_TFLOPs.value,
    "pair_ns": GPU.expert_pair_ns.value,
}


def test_roofline_is_between_maximum_and_sum():
    a, b = np.array([1.0, 2.0, 0.0]), np.array([3.0, 2.0, 5.0])
    assert (roofline(a, b) == np.maximum(a, b)).all()
    assert roofline(a, b, 1.0) == pytest.approx(a + b)
    middle = roofline(a, b, 3.0)
    assert (middle >= np.maximum(a, b)).all()
    assert (middle <= a + b).all()


@pytest.mark.parametrize("each", [1, 100, 128, 129, 4000])
def test_balanced_loads_have_the_simulators_time(each):
    columns = moe.work(
        SHAPE,
        "bfloat16",
        pairs=np.array([[each]]),
        instances=np.array([[16]]),
        hosted=np.array([16]),
        tokens=np.array([0]),
    )
    tiles = np.full((1, 16), -(-each // 128))
    ours = expert_forward(SHAPE, GPU, np.array([16 * each]), tiles)
    assert grouped_gemm(VALUES, columns) == pytest.approx(ours, rel=1e-12)


@pytest.mark.parametrize("pairs", [[5000, 100, 1, 0], [129, 128, 3000, 700], [1, 1, 1, 20_000]])
def test_skewed_loads_have_the_simulators_time(pairs):
    pairs = np.array([pairs])
    columns = moe.work(
        SHAPE,
        "bfloat16",
        pairs=pairs,
        instances=pairs > 0,
        hosted=np.array([4]),
        tokens=np.array([0]),
    )
    ours = expert_forward(SHAPE, GPU, pairs.sum(axis=1), -(-pairs // 128))
    assert grouped_gemm(VALUES, columns) == pytest.approx(ours, rel=1e-12)


def test_skew_costs_time_where_some_instances_wait_for_memory_and_others_for_arithmetic():
    def seconds(pairs):
        pairs = np.array([pairs])
        return grouped_gemm(
            VALUES,
            moe.work(
                SHAPE,
                "bfloat16",
                pairs=pairs,
                instances=pairs > 0,
                hosted=np.array([2]),
                tokens=np.array([0]),
            ),
        )[0]

    assert seconds([2048, 128]) > seconds([1024, 1152])
    # All bound by arithmetic: only the sum of tiles counts.
    assert seconds([4096, 8192]) == pytest.approx(seconds([6144, 6144]), rel=1e-12)


def test_an_exchange_is_bound_by_sms_then_by_the_link():
    values = {"floor_us": 10.0, "step_us": 0.0, "link_GBps": 400.0, "sm_GBps": 20.0}
    columns = {"bytes": np.full(4, 1e9), "ranks": np.full(4, 8), "tokens": np.zeros(4)}
    seconds = exchange(values, {**columns, "sms": np.array([5, 10, 40, 0])})
    assert seconds - 10e-6 == pytest.approx([1 / 100, 1 / 200, 1 / 400, 1 / 400])


def test_a_collective_reaches_the_link_rate_with_size():
    values = {"floor_us": 5.0, "step_us": 1.0, "link_GBps": 300.0, "half_MiB": 1.0}
    wire = np.array([0.0, 2.0**20, 2.0**40])
    seconds = collective(values, {"wire_bytes": wire, "ranks": np.full(3, 8)})
    assert seconds[0] == pytest.approx(12e-6)
    assert seconds[1] - 12e-6 == pytest.approx(2 * 2**20 / 300e9)  # half the rate
    assert seconds[2] == pytest.approx(2.0**40 / 300e9, rel=2e-3)
