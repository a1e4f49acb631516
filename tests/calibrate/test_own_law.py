"""The simulator's own law beside measured rows of skewed loads, which no fit has seen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ultraep_sim.calibrate.fit import fit, row_stream
from ultraep_sim.calibrate.power_law import draw_hottest
from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.compute.gemm import expert_forward
from ultraep_sim.compute.kernel_laws import grouped_gemm
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.model.shapes import MODELS

from .excerpt_path import EXCERPT

PAGE = Path(__file__).parents[2] / "docs" / "silicon.md"
SHAPE = MODELS["qwen3-235b"]
DISTRIBUTIONS = ("power_law_1.01", "power_law_1.2")
DRAWS = 50
#: Pairs of an expert, on average, from which some of a rank's experts are bound by arithmetic, and
#: from which nearly all are.
SOME, MOST = 64, 512


@pytest.fixture(scope="module")
def errors():
    """Relative errors per instance and with one maximum a rank, and mean pairs of an expert."""
    table = moe.read_moe(EXCERPT, "h200", "trtllm")
    case = moe.cases(table, "h200", "trtllm")[0]
    rack = RACKS["h200-nvl8"]
    rows = moe.balanced_rows(table, case)
    values = fit(grouped_gemm, moe.parameters(rack.gpu, case.precision, plain=True), rows).values
    gpu = rack.with_overrides(
        {
            "gpu.expert_launch_us": values["launch_us"],
            "gpu.hbm_achieved_TBps": values["hbm_TBps"],
            "gpu.expert_forward_TFLOPs": values["rate_TFLOPs"],
            "gpu.expert_pair_ns": values["pair_ns"],
        }
    ).gpu
    out = []
    for distribution in DISTRIBUTIONS:
        c = moe.rows_of(table, case, distribution).columns
        for tokens, ranks, ms in zip(
            c["num_tokens"].tolist(), c["moe_ep_size"].tolist(), c["latency"], strict=True
        ):
            key = f"{case.name}/{distribution}/{tokens}/ep{ranks}"
            rng = row_stream(key)
            alpha = moe.alpha_of(distribution)
            loads = draw_hottest(
                tokens, SHAPE.top_k, SHAPE.num_experts, ranks, alpha, DRAWS, rng
            ).astype(np.int64)
            outside = values["token_ns"] * 1e-9 * tokens  # the tables' operators alone pay it
            own = expert_forward(SHAPE, gpu, loads.sum(axis=1), -(-loads // 128))
            ours = [np.median(own + outside), np.median(_one_maximum(gpu, loads) + outside)]
            out.append([*(np.array(ours) / (ms * 1e-3) - 1), loads.mean()])
    return np.array(out)


def _one_maximum(gpu, loads):
    """One maximum for the sums of a rank: the law without the instances."""
    pairs = loads.sum(axis=1)
    read = (loads > 0).sum(axis=1) * SHAPE.expert_bytes("bf16") / gpu.memory_rate
    flops = (-(-loads // 128)).sum(axis=1) * 128 * SHAPE.flops_per_pair
    floor = gpu.expert_launch_us.si + gpu.expert_pair_ns.si * pairs
    return floor + np.maximum(read, flops / gpu.rate("expert", "forward"))


def _between(errors, low, high=np.inf):
    return errors[(errors[:, 2] >= low) & (errors[:, 2] < high), :2]


def _told(errors):
    """Median absolute errors in percent as the page has them: one maximum, then per instance."""
    parts = (_between(errors, SOME, MOST), errors[:, :2], _between(errors, MOST))
    found = [100 * np.median(np.abs(part), axis=0) for part in parts]
    return [f"{one:.1f}" for after, before in found for one in (before, after)]


def test_the_simulators_law_is_nearer_where_some_experts_are_hot_and_some_cold(errors):
    mixed = _between(errors, SOME, MOST)
    after, before = np.median(np.abs(mixed), axis=0)
    assert len(mixed) > 50
    assert after < before
    assert np.median(mixed[:, 0]) > np.median(mixed[:, 1])  # it was too fast


def test_the_page_tells_these_errors(errors):
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    told = re.search(
        r"from ([\d.]+) to \*\*([\d.]+) %\*\* there, and from ([\d.]+) to ([\d.]+) % over all 378 "
        r"rows.* from 512 pairs on it goes from ([\d.]+) to ([\d.]+) %",
        text,
    )
    assert told is not None
    assert len(errors) == 378
    assert list(told.groups()) == _told(errors)
