"""Recorded routing of public models: what the statistics find in it.

Bounds are around what was measured when the tests were written, wide enough for another way
of cutting the data into steps, narrow enough to notice a wrong axis.
"""

import numpy as np
import pytest

from tests.trace.shared_routing import OLMOE_DOMAINS, PER_TOKEN, olmoe_trace, per_token_trace
from tests.trace.toys import same
from ultraep_sim.trace import load_trace, save_heatmap, trace_stats

pytestmark = pytest.mark.shared_data


@pytest.mark.parametrize("name", PER_TOKEN)
def test_recorded_tokens_follow_the_rules(name):
    trace = per_token_trace(name, source_ranks=8, tokens_per_rank=64)
    num_experts, top_k, num_layers = PER_TOKEN[name]
    assert not trace.meta.synthetic
    assert trace.num_records == len(trace.steps) * num_layers
    stats = trace_stats(trace)
    assert stats.ok
    assert stats.tokens == (64, 64)
    assert stats.top_k == top_k
    # Real routers: far from balanced, and steps resemble each other.
    widest = stats.overall.imbalance[min(64, num_experts)]
    assert 2.5 < widest.mean < 6.0
    assert widest.max <= num_experts / top_k
    assert stats.overall.imbalance[8].mean < widest.mean
    assert 0.8 < stats.overall.lag_correlation[1] < 0.97
    # Tokens of a sequence repeat experts, so loads vary more than independent pairs would.
    assert 2.0 < stats.overall.overdispersion < 20.0


def test_a_change_of_domain_replaces_the_profile():
    law, summary = (
        per_token_trace(f"deepseek-v2-lite_esft_{domain}") for domain in ("law", "summary")
    )
    profiles = []
    for trace in (law, summary):
        profile = np.zeros((26, 64))
        for record in trace:
            profile[record.layer] += record.loads.sum(axis=0)
        profiles.append(profile)
    across = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*profiles, strict=True)])
    assert across < 0.3
    for trace in (law, summary):
        assert trace_stats(trace).overall.drift > 0.9


def test_olmoe_counts():
    trace = olmoe_trace()
    assert trace.num_records == len(OLMOE_DOMAINS) * 3
    assert trace.layers.tolist() == [0, 7, 15]
    stats = trace_stats(trace)
    # One domain, tulu, has fewer tokens than the nominal.
    assert [c.name for c in stats.checks if not c.ok] == ["rows hold the nominal 208896 tokens"]
    assert stats.tokens == (205_243, 208_896)
    assert 4.0 < stats.overall.imbalance[64].mean < 5.5
    assert stats.overall.lag_correlation[1] < 0.3


@pytest.mark.parametrize("name", PER_TOKEN)
def test_recorded_routing_survives_file_sources_and_scale(name, tmp_path):
    trace = per_token_trace(name)
    again = load_trace(trace.write(tmp_path / "r.parquet"))
    assert same(again, trace)
    view = again.select(steps=slice(0, 2)).with_sources(64).rescaled(8192)
    plain = trace.select(steps=slice(0, 2))
    num_experts, top_k, _ = PER_TOKEN[name]
    for before, after in zip(plain, view, strict=True):
        assert after.loads.shape == (64, num_experts)
        assert (after.loads.sum(axis=1) == 8192 * top_k).all()
        one = before.loads.sum(axis=0) / before.loads.sum()
        two = after.loads.sum(axis=0) / after.loads.sum()
        assert np.abs(one - two).max() < 1e-4


def test_recorded_routing_draws(tmp_path):
    trace = per_token_trace("gpt-oss-20b_token_examples")
    assert save_heatmap(trace, tmp_path / "gpt-oss.png").stat().st_size > 20_000
