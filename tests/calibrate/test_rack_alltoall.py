"""All-to-all of an NVL72: what its rows mean, the law, the larger group, the profile."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.calibrate.fit import fit
from ultraep_sim.calibrate.silicon import profile, rack_alltoall
from ultraep_sim.compute.kernel_laws import rack_exchange
from ultraep_sim.fabric.alltoall import all_to_all
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.validate import silicon, silicon_kernels

from .excerpt_path import EXCERPT

RACK = RACKS["gb200-nvl72"]


@pytest.fixture(scope="module")
def table():
    return rack_alltoall.read_rack_alltoall(EXCERPT, "gb200")


@pytest.fixture(scope="module")
def combine(table):
    return rack_alltoall.set_rows(table, "gb200", "one_sided/combine/bf16")


def _at(rows, ranks, tokens):
    key = f"gb200/one_sided/combine/bf16/h7168/k8/e256/ep{ranks}/t{tokens}"
    return rows.keys.index(key)


def test_only_gb200_has_the_table():
    assert rack_alltoall.has_table(EXCERPT, "gb200")
    assert not rack_alltoall.has_table(EXCERPT, "h200")


def test_a_token_goes_once_to_every_rank_of_its_striped_experts(combine):
    sent = combine.columns["bytes"]
    row = 1024 * 7168 * 2
    assert [sent[_at(combine, r, 1024)] / row for r in (2, 4, 8, 16, 32)] == [1, 3, 7, 7.5, 7.75]


def test_the_link_tells_what_rows_mean(combine):
    """Bytes to other ranks cost the same in every group; other readings pass the link or differ."""
    groups = (4, 8, 16)
    at = [_at(combine, r, 16384) for r in groups]
    seconds, sent = combine.seconds[at], combine.columns["bytes"][at]
    rates = sent / seconds / 1e9
    assert rates.max() / rates.min() < 1.01
    assert (combine.columns["bytes"] / combine.seconds).max() < RACK.scale_up_GBps.si
    pairs_of_two_ranks = 16384 * 8 / 2 * 7168 * 2
    assert pairs_of_two_ranks / combine.seconds[_at(combine, 2, 16384)] > 2 * RACK.scale_up_GBps.si
    missed = [math.comb(256 - 256 // r, 8) / math.comb(256, 8) for r in groups]
    random = 16384 * (np.array(groups) - 1) * (1 - np.array(missed)) * 7168 * 2 / seconds
    assert random.max() / random.min() > 1.3


@pytest.mark.parametrize("name", ["one_sided/dispatch/fp4", "two_sided/dispatch/bf16"])
def test_rows_held_out_and_the_largest_group_are_predicted(table, name):
    judged = {j.table: j for j in silicon_kernels.rack_alltoalls(table, "gb200", RACK, [name])}
    held = judged["rack_alltoall"].found.held_out
    assert held.rows > 25
    assert held.median < 0.04
    larger = judged["rack_alltoall_larger_group"]
    assert set(larger.rows.columns["ranks"]) == {32 if "one" in name else 64}
    assert not set(larger.rows.keys) & set(_fitted_keys(table, name, larger))
    assert larger.found.held_out.rows == len(larger.rows)
    assert larger.found.held_out.median < 0.07
    assert larger.role == "predicted"
    roles = {row["case"]: row["role"] for row in silicon.rows_of(larger)}
    smaller = _fitted_keys(table, name, larger)
    assert {key for key, role in roles.items() if role == "fitted"} == set(smaller)
    assert {key for key, role in roles.items() if role == "predicted"} == set(larger.rows.keys)
    # Some of them the other fit predicted: they have both roles, one under each table.
    other = {row["case"]: row["role"] for row in silicon.rows_of(judged["rack_alltoall"])}
    assert {other[key] for key in smaller} == {"fitted", "predicted"}


def _fitted_keys(table, name, larger):
    """Keys of the rows whose digest the fit wrote down: those of the smaller groups."""
    rows = rack_alltoall.set_rows(table, "gb200", name)
    smaller = rows.take(rows.columns["ranks"] < larger.rows.columns["ranks"].max())
    assert larger.found.manifest["fitted_sha256"] == smaller.digest
    return smaller.keys


def test_preparing_sends_nothing(table):
    rows = rack_alltoall.set_rows(table, "gb200", "two_sided/prepare")
    assert not rows.columns["bytes"].any()
    found = fit(rack_exchange, rack_alltoall.parameters(RACK, "two_sided/prepare"), rows)
    assert set(found.values) == {"floor_us", "step_us", "token_ns"}
    assert found.held_out.median < 0.06


def test_the_plain_law_is_the_simulators():
    values = {"floor_us": RACK.alltoall_floor_us.value, "link_GBps": 720.0}
    pairs = np.array([[100, 7000, 3]])
    columns = {"bytes": pairs[0] * 14336.0, "tokens": pairs[0], "ranks": np.full(3, 64)}
    nothing = 0 * pairs
    simulated = all_to_all(RACK, pairs, pairs, nothing, nothing, 14336.0)
    assert rack_exchange(values, columns) == pytest.approx(simulated[0], rel=1e-12)


def test_known_parameters_are_recovered(combine):
    true = {
        "floor_us": 12.0, "link_GBps": 700.0, "step_us": 2.0, "token_ns": 60.0, "sharpness": 3.0,
        "half_ranks": 200.0,
    }  # fmt: skip
    noise = np.exp(0.01 * np.random.default_rng(1).standard_normal(len(combine)))
    made = type(combine)(
        combine.columns, rack_exchange(true, combine.columns) * noise, combine.keys
    )
    found = fit(rack_exchange, rack_alltoall.parameters(RACK), made)
    for name, value in true.items():
        assert abs(np.log(found.values[name] / value)) < 4 * found.relative_sd(name), name
        assert found.relative_sd(name) < 0.2, name


def test_a_profile_takes_rate_and_floor_of_wide_groups():
    rows = profile._wide_rows(EXCERPT, "gb200")
    assert min(rows.columns["ranks"]) == rack_alltoall.WIDE
    found = fit(rack_exchange, rack_alltoall.parameters(RACK, plain=True), rows, folds=5)
    numbers = profile._links({"rack_alltoall": found}, RACK)
    rate, floor = numbers["alltoall_forward_GBps"], numbers["alltoall_floor_us"]
    backward = numbers["alltoall_backward_GBps"]
    assert (backward.provenance, backward.source) == ("assumed", f"as forward, {rate.source}")
    assert replace(backward, provenance="fitted", source=rate.source) == rate
    assert rate.provenance == floor.provenance == "fitted"
    assert "trtllm_alltoall_perf" in rate.source
    assert 600 < rate.value < RACK.alltoall_forward_GBps.value
    assert rate.low < rate.value < rate.high < RACK.scale_up_GBps.value
    assert 15 < floor.value < 30
    assert found.cross_validated.median < 0.06
    assert profile._links({}, RACKS["gb300-nvl72"]) == {}
