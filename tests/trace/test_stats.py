import json
import math

import numpy as np
import pytest

from tests.trace.toys import same, toy_arrays, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.planning.layout import default_home
from ultraep_sim.trace import Trace, synthesize, trace_stats


def rank_imbalance(loads, ranks):
    by_rank = np.bincount(default_home(ranks, loads.shape[1]), loads.sum(axis=0), ranks)
    return by_rank.max() / by_rank.mean()


def test_imbalance_is_that_of_the_records():
    meta = toy_meta(num_experts=11, num_layers=3, tokens_per_rank=40)
    trace = toy_trace(meta, steps=5)
    stats = trace_stats(trace, ep_sizes=(2, 4, 11))
    for layer in stats.layers:
        for size in (2, 4, 11):
            values = [rank_imbalance(r.loads, size) for r in trace if r.layer == layer.layer]
            found = layer.imbalance[size]
            assert found.mean == pytest.approx(np.mean(values))
            assert found.p50 == pytest.approx(np.median(values))
            assert found.p99 == pytest.approx(np.percentile(values, 99))
            assert found.max == pytest.approx(max(values))
    pooled = [rank_imbalance(r.loads, 4) for r in trace]
    assert stats.overall.imbalance[4].mean == pytest.approx(np.mean(pooled))
    assert stats.overall.imbalance[4].max == pytest.approx(max(pooled))


def test_dynamics_are_those_of_the_step_sums():
    meta = toy_meta(num_experts=16, tokens_per_rank=60)
    trace = toy_trace(meta, steps=22)
    stats = trace_stats(trace, ep_sizes=(4,))
    assert stats.num_steps == 22
    for layer in stats.layers:
        mine = [r for r in trace if r.layer == layer.layer]
        by_step = np.array([r.loads.sum(axis=0) for r in mine]).reshape(22, 2, 16)
        sums = by_step.sum(axis=1)
        for lag in (1, 5, 10):
            expected = np.mean([np.corrcoef(sums[t], sums[t - lag])[0, 1] for t in range(lag, 22)])
            assert layer.lag_correlation[lag] == pytest.approx(expected)
        ends = np.corrcoef(sums[:8].sum(axis=0), sums[-8:].sum(axis=0))[0, 1]
        assert layer.drift == pytest.approx(ends)
        records = by_step.reshape(-1, 16)
        share = records.sum(axis=0) / records.sum()
        due = records.sum(axis=1, keepdims=True) * share
        freedom = (len(records) - 1) * 15
        chi = ((records - due) ** 2 / due).sum()
        assert layer.overdispersion == pytest.approx(chi / freedom)


def test_overdispersion_is_one_for_independent_pairs_and_more_where_popularity_moves():
    still = synthesize(64, 1, 2, 40, 1, 4096, 1.5, 8, seed=1)
    moving = synthesize(64, 1, 2, 40, 1, 4096, 1.5, 8, seed=1, drift=0.3, drift_memory=0.5)
    assert trace_stats(still).overall.overdispersion == pytest.approx(1.0, abs=0.1)
    assert trace_stats(moving).overall.overdispersion > 3.0


def test_layers_that_share_their_imbalance_correlate():
    meta = toy_meta(num_experts=8, num_layers=2, source_ranks=1, tokens_per_rank=40, top_k=1)
    rng = np.random.default_rng(0)
    hot = rng.integers(5, 20, 30)
    one = np.stack([np.r_[[h], [0] * 6, [40 - h]] for h in hot])
    loads = np.repeat(one[:, None, None, :], 2, axis=1).reshape(60, 1, 8)
    keys = np.indices((30, 1, 2)).reshape(3, -1)
    stats = trace_stats(Trace.from_arrays(meta, *keys, loads), ep_sizes=(8,))
    assert stats.cross_layer_imbalance == pytest.approx(1.0)
    assert stats.cross_layer_load == pytest.approx(1.0)
    apart = trace_stats(synthesize(64, 4, 4, 30, 1, 512, 2.0, 8, seed=5), ep_sizes=(8,))
    assert abs(apart.cross_layer_imbalance) < 0.4


def test_one_pass_is_enough_for_a_file(tmp_path):
    trace = toy_trace(steps=4)
    stats = trace_stats(Trace.read(trace.write(tmp_path / "t.parquet")), ep_sizes=(2, 8))
    assert stats.overall == trace_stats(trace, ep_sizes=(2, 8)).overall


def test_json_and_table():
    stats = trace_stats(toy_trace(steps=1, micro_batches=1), ep_sizes=(2, 4, 64))
    plain = json.loads(json.dumps(stats.to_dict(), allow_nan=False))
    assert plain["kind"] == "SYNTHETIC"
    assert plain["overall"]["lag_correlation"]["1"] is None
    assert set(plain["overall"]["imbalance"]) == {"2", "4"}  # EP64 of 8 experts makes no sense
    assert math.isnan(stats.overall.drift)
    rows = stats.rows()
    assert [row["layer"] for row in rows] == ["0", "1", "all"]
    assert rows[0]["lag 1"] == "-"
    assert all(set(row) == set(rows[0]) for row in rows)


def test_all_checks_hold_for_a_whole_trace():
    stats = trace_stats(toy_trace(steps=4))
    assert stats.ok
    assert stats.tokens == (6, 6)
    assert all(check.detail for check in stats.checks)


def failed(trace):
    return [check.name for check in trace_stats(trace).checks if not check.ok]


def test_checks_find_what_the_format_allows_but_a_reader_should_know():
    meta = toy_meta()
    keys, loads = toy_arrays(meta, steps=4)

    def part(keep, meta=meta):
        return Trace.from_arrays(meta, *keys[keep].T, loads[keep])

    everything = np.ones(len(keys), dtype=bool)
    assert failed(part(keys[:, 2] == 0)) == ["all layers are there"]
    assert failed(part(keys[:, 2] == 0, meta.replace(sampling={"layers": [0]}))) == []
    assert failed(part(keys[:, 0] != 1)) == ["steps are 1 apart"]
    assert failed(part(keys[:, 0] % 2 == 0)) == ["steps are 1 apart"]
    assert failed(part(keys[:, 0] % 2 == 0, meta.replace(sampling={"step_every": 2}))) == []
    windows = meta.replace(sampling={"steps": [[0, 1], [2, 4]]})
    assert failed(part(keys[:, 0] != 1, windows)) == []
    assert failed(part(np.arange(len(keys)) != 3)) == [
        "every micro-batch has the same number of layers"
    ]
    assert failed(part(everything, meta.replace(tokens_per_rank=7))) == [
        "rows hold the nominal 7 tokens"
    ]


def test_nothing_to_see_is_an_error():
    with pytest.raises(TraceError, match="no records"):
        trace_stats(toy_trace().select(steps=99))
    with pytest.raises(TraceError, match="no expert-parallel size fits"):
        trace_stats(toy_trace(), ep_sizes=(64,))


def test_statistics_leave_the_trace_alone():
    trace = toy_trace()
    trace_stats(trace)
    assert same(trace, toy_trace())
