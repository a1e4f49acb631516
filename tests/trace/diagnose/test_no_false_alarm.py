"""Recorded routing is healthy: what ships, and real models' where the data is there."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trace.shared_routing import OLMOE, PER_TOKEN, ROUTING
from ultraep_sim.trace import synthesize, trace_stats
from ultraep_sim.trace.convert import as_trace, judge_and_repair
from ultraep_sim.trace.diagnose import diagnose
from ultraep_sim.trace.formats import ReadOptions, open_dump

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "traces").glob("*.parquet"))


def file(name):
    path = ROUTING / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"recorded third-party data is not here: ../shared/data/routing/{path.name}")
    return path


def test_traces_are_shipped():
    assert len(SHIPPED) == 5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_traces_are_healthy(path):
    assert diagnose(open_dump(path)) == []


@pytest.mark.parametrize("imbalance", [1.2, 4.0, 7.0])
@pytest.mark.parametrize("sources", [1, 8])
def test_drawn_traces_are_healthy(imbalance, sources, tmp_path):
    trace = synthesize(64, 8, 3, 12, sources, 256, imbalance, at_ranks=8, drift=0.2, noise=0.2)
    trace.write(tmp_path / "a.parquet")
    assert diagnose(open_dump(tmp_path / "a.parquet")) == []


@pytest.mark.shared_data
@pytest.mark.parametrize("name", PER_TOKEN)
def test_recorded_tokens_are_healthy_and_keep_their_statistics(name):
    path = file(name)
    experts, top_k, layers = PER_TOKEN[name]
    options = ReadOptions(experts=experts, tokens_per_step=512)
    found = judge_and_repair(open_dump(path, options))
    assert {f.name for f in found.findings} <= {"tokens-left-over"}
    trace = as_trace(found)
    with np.load(path) as members:
        ids = members["topk"]
        about = json.loads(str(members["meta"]))
    used = len(ids) // 512 * 512
    assert trace.num_records == used // 512 * layers
    total = np.zeros((layers, experts), dtype=np.int64)
    for record in trace:
        total[record.layer] += record.loads[0]
    for layer in range(layers):
        assert np.array_equal(
            total[layer], np.bincount(ids[:used, layer].ravel(), minlength=experts)
        )
    assert trace.meta.model == about["model"]
    assert (trace.meta.top_k, trace.meta.tokens_per_rank) == (top_k, 512)
    stats = trace_stats(trace)
    assert stats.ok
    assert 2.5 < stats.overall.imbalance[min(64, experts)].mean < 6.0
    assert 0.2 < stats.overall.lag_correlation[1] < 0.97


@pytest.mark.shared_data
@pytest.mark.parametrize("name", PER_TOKEN)
def test_recorded_requests_are_healthy(name):
    experts, _, _ = PER_TOKEN[name]
    dump = open_dump(file(name), ReadOptions(experts=experts))
    assert diagnose(dump) == []
    with np.load(file(name)) as members:
        requests = 1 + int((np.diff(members["seq"]) != 0).sum())
    assert len({record.step for record in dump.records()}) == requests


@pytest.mark.shared_data
def test_olmoe_counts_are_healthy():
    found = judge_and_repair(open_dump(file(OLMOE), ReadOptions(layers=16)))
    assert found.findings == []
    trace = as_trace(found)
    assert trace.meta.top_k == 8
    assert trace.meta.sampling == {"layers": [0, 7, 15]}
    stats = trace_stats(trace)
    assert stats.tokens == (205_243, 208_896)
    assert 4.0 < stats.overall.imbalance[64].mean < 5.5


@pytest.mark.shared_data
@pytest.mark.parametrize(("kind", "pairs"), [("e16k4", 2_097_152), ("e8k2", 1_048_576)])
def test_rank_loads_of_a_training_are_healthy(kind, pairs):
    found = judge_and_repair(open_dump(file(f"mixtral-8x7b-{kind}_train_FSDP_rankloads_laer")))
    assert found.findings == []
    trace = as_trace(found)
    assert trace.meta.phase == "training"
    assert "one expert of a top-1 router" in trace.meta.notes["rank_loads"]
    stats = trace_stats(trace, [8, 16, 32])
    assert stats.tokens == (pairs, pairs)
    assert 1.1 < stats.overall.imbalance[32].mean < 3.0
    assert stats.overall.lag_correlation[1] > 0.4
