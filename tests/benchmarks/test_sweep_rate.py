"""What the sweep engine adds to a point, and how busy it keeps two processes.

The baseline runs the same points in a bare loop in this process; `points_per_s` of the others are
rates over its. On two idle cores two processes should come close to 2x.
"""

import pytest

from ultraep_sim.sweep import expand, load_sweep, run_point, run_sweep

BASE = """
name: tiny
model: {preset: qwen3-30b, layers: 2, num_experts: 64, top_k: 4}
rack: h100-nvl8
ep: {ranks: 8, slots_per_rank: 2}
workload:
  synthetic: {imbalance: 1.6, layers: 4, steps: 50}
  tokens_per_rank: 1024
  sequence_length: 1024
policies: [none, ultraep, ideal]
"""
POINTS = 120


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    file = tmp_path / "sweep.yaml"
    file.write_text(
        f"base: base.yaml\nvary: {{ep.slots_per_rank: [0, 1, 2]}}\nseeds: {POINTS // 3}\n"
    )
    return load_sweep(file)


def in_a_loop(spec, folder):
    return [row for point in expand(spec) for row in run_point(point)]


def in_the_engine(spec, folder):
    return run_sweep(spec, folder).rows


def in_two_processes(spec, folder):
    return run_sweep(spec, folder, jobs=2).rows


@pytest.mark.benchmark(group=f"sweep: {POINTS} points of 200 records", max_time=1, min_rounds=2)
@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("bare loop (baseline)", in_a_loop),
        ("engine, one process", in_the_engine),
        ("engine, two processes", in_two_processes),
    ],
)
def test_points(benchmark, spec, tmp_path, name, job):
    fresh = iter(range(1000))
    assert len(job(spec, tmp_path / "warm")) == POINTS * 3
    benchmark.pedantic(lambda: job(spec, tmp_path / str(next(fresh))), rounds=2, warmup_rounds=0)
    benchmark.name = name
    benchmark.extra_info["points_per_s"] = round(POINTS / benchmark.stats["median"], 2)
