"""Rate of the event engine beside bare SimPy's, in changes of state a second on one core.

Bare SimPy is a process that yields timeouts, an event each; one process, and as many as the engine
has ranks, for a queue as long as the engine's. Of the engine only events that change state count:
`ultraep_sim.engine.event.streams.Tally` says which, and `tests/engine/test_event_engine.py` that no
other is processed but the start of processes. Read `events_per_s` in the extra info of `make
bench`, and `ratio_to_bare`: the median over rounds that run one right after the other. The aim is
0.3.
"""

import statistics
import time

import numpy as np
import pytest
import simpy

from tests.engine.jobs import make_job
from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.job import PHASE_PART

STAGES, LAYERS, MICRO_BATCHES = 4, 6, 8
EVENTS = 100_000
ROUNDS = 7


def job(ranks, overlap):
    rng = np.random.default_rng(0)
    shape = (1, MICRO_BATCHES, STAGES * LAYERS, ranks)
    phases = [phase for phase in PHASE_PART if "shared" not in phase]
    return make_job(
        stages=STAGES,
        layers=LAYERS,
        micro_batches=MICRO_BATCHES,
        ranks=ranks,
        overlap=overlap,
        busy={phase: rng.uniform(1, 2, shape) for phase in phases},
    )


def bare(processes):
    env = simpy.Environment()

    def tick():
        for _ in range(EVENTS // processes):
            yield env.timeout(1.0)

    for _ in range(processes):
        env.process(tick())
    env.run()


def rate(run, events):
    begin = time.perf_counter()
    run()
    return events / (time.perf_counter() - begin)


@pytest.mark.benchmark(group="events: changes of state a second, one core")
@pytest.mark.parametrize("processes", [1, 256], ids=["1 process", "256 processes"])
def test_bare_simpy_baseline(benchmark, processes):
    benchmark(bare, processes)
    benchmark.extra_info["events_per_s"] = round(EVENTS / benchmark.stats["median"])


@pytest.mark.benchmark(group="events: changes of state a second, one core")
@pytest.mark.parametrize("overlap", ["none", "dualpipe"])
@pytest.mark.parametrize("ranks", [8, 64])
def test_event_engine(benchmark, ranks, overlap):
    one = job(ranks, overlap)
    events = run_event(one).events
    # Every kernel of every rank is an event; both passes have 13 kernels a layer.
    assert events > STAGES * LAYERS * MICRO_BATCHES * ranks * 13
    ratios = [
        rate(lambda: run_event(one), events) / rate(lambda: bare(1), EVENTS) for _ in range(ROUNDS)
    ]
    benchmark(run_event, one)
    benchmark.extra_info["events_per_s"] = round(events / benchmark.stats["median"])
    benchmark.extra_info["ratio_to_bare"] = round(statistics.median(ratios), 2)
