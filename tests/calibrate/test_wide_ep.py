"""Wide-EP grouped GEMM: the drawn load of the timed rank, and a law that never saw such rows."""

from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.calibrate.fit import fit
from ultraep_sim.calibrate.silicon import moe, tables, wide_ep
from ultraep_sim.compute.kernel_laws import TILE_ROWS, grouped_gemm
from ultraep_sim.model.hardware import GPUS, RACKS
from ultraep_sim.validate import silicon_kernels

from .excerpt_path import EXCERPT

PREFIX = "gb300/trtllm/wideep_compute_cutlass/deepseek-v3-671b/nvfp4"


@pytest.fixture(scope="module")
def rows():
    table = wide_ep.read_wide_ep(EXCERPT, "gb300")
    (case,) = wide_ep.cases(table, "gb300")
    assert case.name == PREFIX
    return wide_ep.wide_ep_rows(table, case)


def _loads(rows, distribution, slots, tokens, ranks):
    at = rows.keys.index(f"{PREFIX}/{distribution}/slots{slots}/{tokens}/ep{ranks}")
    return rows.columns["pairs"][at], at


def test_the_hottest_rank_has_more_than_its_share_and_eplb_takes_most_of_it_away(rows):
    share = 8192 * 8 / 8
    skewed, at = _loads(rows, "power_law_1.2", 256, 8192, 8)
    placed, _ = _loads(rows, "power_law_1.2_eplb", 256, 8192, 8)
    copied, other = _loads(rows, "power_law_1.2_eplb", 288, 8192, 8)
    assert skewed.sum() > 1.3 * share
    assert share <= placed.sum() < skewed.sum()
    assert copied.sum() < 1.1 * share
    assert copied.max() < skewed.max()
    assert rows.columns["hosted"][at] == 32
    assert rows.columns["hosted"][other] == 36


def test_distinct_tokens_of_the_rows_are_those_of_the_draws(rows):
    """The one thing that tables tell of a load: whether loads are drawn as they were."""
    many = rows.columns["tokens"] >= 1024
    ratio = rows.columns["distinct"][many] / rows.columns["drawn_distinct"][many]
    assert abs(np.median(ratio) - 1) < 0.05
    assert np.quantile(np.abs(np.log(ratio)), 0.9) < 0.3


def test_draws_depend_on_the_row_alone(rows):
    table = wide_ep.read_wide_ep(EXCERPT, "gb300")
    (case,) = wide_ep.cases(table, "gb300")
    part = wide_ep.wide_ep_rows(table.where(moe_ep_size=8), case)
    for key in part.keys[::10]:
        one, two = (r.columns["pairs"][r.keys.index(key)] for r in (part, rows))
        width = min(len(one), len(two))
        assert (one[:width] == two[:width]).all()


def test_the_law_of_balanced_rows_predicts_and_an_own_fit_does_better():
    judged = {j.table: j for j in silicon_kernels.wide_eps(EXCERPT, "gb300", RACKS["gb300-nvl72"])}
    predicted, own = judged["wide_ep_by_balanced"], judged["wide_ep"]
    assert predicted.role == "predicted"
    assert predicted.found.held_out.rows == len(predicted.rows)
    # What the law was fitted to has no power law in it.
    table = moe.read_moe(EXCERPT, "gb300", "trtllm")
    (case,) = moe.cases(table, "gb300", "trtllm")
    assert predicted.found.manifest["rows_sha256"] == moe.balanced_rows(table, case).digest
    assert predicted.found.held_out.median < 0.20
    assert own.found.held_out.median < 0.08
    # A report tells how distinct tokens compare, over the rows of both once.
    c = own.rows.columns
    told = silicon_kernels.figures(list(judged.values()))
    assert told["wide_ep_distinct_median"] == np.median(c["distinct"] / c["drawn_distinct"])
    assert told["wide_ep_distinct_p10"] < 1 < told["wide_ep_distinct_p90"]
    assert silicon_kernels.figures([predicted]) == {}
    seconds = predicted.found.predict(predicted.rows.columns)
    assert np.median(seconds / predicted.rows.seconds) < 1  # measured ones take longer


def test_uniform_rows_fill_a_tile_of_an_expert_before_the_next():
    case, rows = wide_ep.context_rows(EXCERPT, "h200")
    at = {k.removeprefix(f"{case.name}/"): i for i, k in enumerate(rows.keys)}
    few, all_touched = at["256/ep2"], at["8192/ep2"]
    assert rows.columns["instances"][few] == 256 * 8 / 2 / TILE_ROWS == 8
    assert rows.columns["pairs"][few] == TILE_ROWS
    assert rows.columns["instances"][all_touched] == rows.columns["hosted"][all_touched] == 128
    assert rows.seconds[at["256/ep2"]] < 1.1 * rows.seconds[at["32/ep2"]]
    parameters = moe.parameters(GPUS["h200"], case.precision)
    found = fit(grouped_gemm, parameters, rows)
    path = tables.table_path(EXCERPT, "h200", "moe", "sglang", "wideep_context_moe_perf")
    table = tables.read_table(EXCERPT, path, moe.COLUMNS)
    spread = fit(grouped_gemm, parameters, moe.balanced_rows(table, case, wide_ep.UNIFORM))
    assert found.fitted.p90 < 0.2 < 0.5 < spread.fitted.p90
