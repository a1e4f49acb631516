"""A row of a run, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.helpers import tiny
from ultraep_sim.serving.metrics import mean_in_system, statistic, summarise
from ultraep_sim.serving.requests import Requests
from ultraep_sim.serving.server import CANCELLED, REFUSED, SERVED, Service
from ultraep_sim.serving.step import Step

#: Warm-up until 1, arrivals until 5, line at 2 seconds; 8 GPUs at 3.60 an hour: 8e-3 a second.
SCENARIO = tiny(
    requests={"duration_s": 5.0},
    serving={"warmup_s": 1.0, "slo": {"ttft_s": 2.0}, "gpu_hour_price": 3.6},
)
REQUESTS = Requests(
    arrival_s=np.array([0.0, 1.0, 2.0, 3.0, 4.0]),
    tokens=np.array([100, 200, 300, 400, 500]),
    domain=np.zeros(5, np.int32),
    cached=np.zeros(5, np.int64),
    patience_s=np.full(5, np.inf),
    domains=("all",),
    label="by hand",
)
SERVICE = Service(
    outcome=np.array([SERVED, SERVED, SERVED, CANCELLED, REFUSED], np.int8),
    end_s=np.array([1.5, 2.0, 5.0, 3.5, 4.0]),
    rank=np.array([0, 0, 1, 1, -1], np.int16),
    computed=np.array([100, 200, 300, 50, 0]),
    began_s=np.array([0.0, 1.5, 4.0]),
    waiting=np.array([0, 0, 1]),
    stopped_s=6.0,
    stopped_early=False,
)


def step(seconds: float, tokens: int, imbalance: float) -> Step:
    parts = {"attention_s": 0.5, "all_to_all_s": 0.2, "experts_s": 0.2, "outside_s": 0.1}
    parts = {name: share * seconds for name, share in parts.items()}
    return Step(
        seconds, **parts, balancing_s=0.0, tokens=tokens, chunks=1, imbalance=imbalance,
        attention_imbalance=2.0 * imbalance, replicas=0.0, moved=0,
    )  # fmt: skip


LOG = [step(1.5, 100, 9.0), step(0.5, 200, 1.0), step(2.0, 300, 2.0)]


def test_a_row_by_hand() -> None:
    row = summarise("none", SCENARIO, REQUESTS, SERVICE, LOG)
    assert row["policy"] == "none"
    assert row["requests"] == 4  # what arrived at 0 is warm-up
    shares = {"served": 0.5, "cancelled": 0.25, "refused": 0.25, "pending": 0, "timed_out": 0}
    assert {name: row[name] for name in shares} == shares
    # Waits of 1 and 3 seconds.
    assert row["ttft_mean_s"] == row["ttft_p50_s"] == 2.0
    assert row["ttft_p90_s"] == pytest.approx(2.8)
    assert row["ttft_p99_s"] == pytest.approx(2.98)
    # One of them in time, of four, in four seconds.
    assert row["goodput_per_s"] == 0.25
    assert row["slo_attainment"] == 0.25
    assert row["tokens_per_s"] == (200 + 300) / 4
    assert row["cost_per_million_tokens"] == pytest.approx(8e-3 / 125 * 1e6)
    # From 1 to 5: the first stays half a second more, then 1, 3, 0.5 and 0.
    assert row["mean_in_system"] == pytest.approx((0.5 + 1 + 3 + 0.5) / 4)
    # The steps that began at 1.5 and 4; the last runs on for a second after the end.
    assert row["step_ms"] == pytest.approx(1250)
    assert row["busy"] == pytest.approx((0.5 + 1.0) / 4)
    assert row["mean_rank_imbalance"] == pytest.approx((200 * 1 + 300 * 2) / 500)
    assert row["attention_imbalance"] == pytest.approx(2 * (200 * 1 + 300 * 2) / 500)
    assert row["share_attention"] == pytest.approx(0.5)
    assert row["share_balancing"] == 0.0


def test_where_nothing_was_served_nothing_is_told() -> None:
    gone = Service(**{**vars(SERVICE), "outcome": np.full(5, REFUSED, np.int8)})
    row = summarise("none", SCENARIO, REQUESTS, gone, LOG)
    assert row["refused"] == 1.0
    for name in ("ttft_mean_s", "ttft_p99_s", "cost_per_million_tokens"):
        assert row[name] is None
    assert row["goodput_per_s"] == row["tokens_per_s"] == 0.0


def test_without_steps_that_count_none_are_told() -> None:
    early = Service(**{**vars(SERVICE), "began_s": np.array([0.0, 0.2, 0.9])})
    row = summarise("none", SCENARIO, REQUESTS, early, LOG)
    assert row["busy"] is row["step_ms"] is row["share_experts"] is None


def test_statistics() -> None:
    values = np.arange(101.0)
    assert (statistic(values, "mean"), statistic(values, "p99")) == (50.0, 99.0)
    assert statistic(np.zeros(0), "p99") == 0.0


def test_who_never_left_is_in_the_system_until_the_end() -> None:
    end = np.array([2.0, np.nan])
    service = Service(**{**vars(SERVICE), "end_s": end})
    assert mean_in_system(np.array([0.0, 1.0]), service, 0.0, 4.0) == (2.0 + 3.0) / 4.0
