"""Rate of the bare prefill server, in requests a second of one core, beside bare SimPy timeouts.

The server's clock is a constant, so that what is timed is queues, admission, chunks and books. Bare
SimPy is a process that yields a timeout a request, the least an arrival can cost. `ratio_to_bare`
is the median over rounds that run one right after the other; 1.1 million requests, an hour at 300
a second, take 1.1e6 / `requests_per_s` seconds beside what the steps themselves take.
"""

import statistics
import time

import numpy as np
import pytest
import simpy

from ultraep_sim.serving.server import Server, ServerRules

REQUESTS, RANKS, BUDGET, STEP_S = 20_000, 64, 4096, 0.1
ROUNDS = 5


def bare():
    env = simpy.Environment()

    def arrive():
        for _ in range(REQUESTS):
            yield env.timeout(1.0)

    env.process(arrive())
    env.run()


def server(timeout_s):
    rng = np.random.default_rng(0)
    arrival_s = np.cumsum(rng.exponential(1 / 300, REQUESTS))
    tokens = np.clip(rng.lognormal(7.1, 1.0, REQUESTS), 1, 32768).astype(np.int64)
    rules = ServerRules(RANKS, BUDGET, timeout_s=timeout_s)
    cached, patience_s = np.zeros(REQUESTS, np.int64), np.full(REQUESTS, np.inf)
    return Server(rules, arrival_s, tokens, cached, patience_s, lambda *_: STEP_S).run()


def seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@pytest.mark.benchmark(group="serving: requests a second, one core")
def test_bare_timeouts_baseline(benchmark):
    benchmark(bare)
    benchmark.extra_info["requests_per_s"] = round(REQUESTS / benchmark.stats["median"])


@pytest.mark.benchmark(group="serving: requests a second, one core")
@pytest.mark.parametrize("timeout_s", [np.inf, 30.0], ids=["patient", "time-outs"])
def test_server(benchmark, timeout_s):
    found = server(timeout_s)
    assert np.isfinite(found.end_s).all()
    ratios = [seconds(bare) / seconds(lambda: server(timeout_s)) for _ in range(ROUNDS)]
    benchmark.pedantic(server, args=(timeout_s,), rounds=ROUNDS)
    benchmark.extra_info["requests_per_s"] = round(REQUESTS / benchmark.stats["median"])
    benchmark.extra_info["ratio_to_bare"] = round(statistics.median(ratios), 2)
