"""Whole iterations of a scenario: they add up, both engines agree, what is slow slows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ultraep_sim.engine.run import RunResult, run_scenario, training_jobs
from ultraep_sim.errors import ScenarioError
from ultraep_sim.scenario import scenario_from_dict

BASE: dict[str, Any] = {
    "name": "small",
    "model": {
        "preset": "qwen3-30b",
        "layers": 6,
        "dense_layers": 1,
        "dense_ffn": 4096,
        "num_experts": 32,
    },
    "rack": "paper-rack64",
    "ep": {"ranks": 8, "slots_per_rank": 2, "pipeline_stages": 2, "data_parallel": 2},
    "workload": {
        "synthetic": {"imbalance": 1.8, "layers": 5, "steps": 2, "drift": 0.1, "noise": 0.2},
        "tokens_per_rank": 2048,
    },
    "policies": ["none", "ultraep", "ideal"],
    "training": {"micro_batches": 4},
}


def run(*sets: str) -> RunResult:
    return run_scenario(scenario_from_dict(BASE, sets))


def rows(*sets: str) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row for row in run(*sets).rows}


ONE_GROUP = ("ep.pipeline_stages=1", "ep.data_parallel=1")


def test_one_stage_is_the_sum_of_its_layers() -> None:
    """Nothing but layers, once the surroundings are taken off."""
    result = run(*ONE_GROUP, "training.grad_sync=exposed")
    jobs, _ = training_jobs(scenario_from_dict(BASE, [*ONE_GROUP, "training.grad_sync=exposed"]))
    job = jobs.job("none", 0)
    around = 4 * float(job.extra_forward.max() + job.extra_backward.max())
    around += float(job.bucket_s.sum() + job.extra_bucket_s.sum() + job.finish_s.max())
    table = result.records.to_pydict()
    layers = sum(
        seconds
        for seconds, policy, step in zip(
            table["layer_time_s"], table["policy"], table["step"], strict=True
        )
        if (policy, step) == ("none", 0)
    )
    assert result.iterations is not None
    first = result.iterations.to_pylist()[0]
    assert first["iteration_s"] == pytest.approx(layers + around)


def test_rows_hang_together() -> None:
    found = rows()
    none, ultraep, ideal = (found[name] for name in ("none", "ultraep", "ideal"))
    assert none["iteration_ms"] > ultraep["iteration_ms"] > ideal["iteration_ms"]
    assert none["speedup_over_none"] == ideal["fraction_of_ideal"] == 1.0
    for row in found.values():
        flops = row["tflops_per_gpu"] * row["iteration_ms"]
        assert flops == pytest.approx(none["tflops_per_gpu"] * none["iteration_ms"])
        shares = ("communication_exposed", "pipeline_idle", "sync_exposed")
        assert all(0 <= row[name] < 1 for name in shares)
        assert sum(row[name] for name in shares) < 1
        assert row["fraction_of_ideal"] == pytest.approx(
            ideal["iteration_ms"] / row["iteration_ms"]
        )


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("engine.recompute=full", "engine.restore=overlapped"),
        ("training.schedule=interleaved", "training.virtual_stages=2"),
        ("engine.overlap=two_batch",),
        ("engine.overlap=dualpipe", "training.grad_sync=exposed"),
        ("stragglers={spread: {}, jitter: {sigma: 0.05}, slow_links: [{gpu: 3, factor: 2.0}]}",),
    ],
    ids=lambda sets: " ".join(sets) or "plain",
)
def test_both_engines_agree_on_a_scenario(sets) -> None:  # type: ignore[no-untyped-def]
    fast, event = rows(*sets), rows(*sets, "engine.mode=event")
    for policy, row in fast.items():
        for name, value in row.items():
            if name != "policy":
                assert event[policy][name] == pytest.approx(value, rel=1e-9), (policy, name)


def test_overlap_hides_communication() -> None:
    plain, pairs = rows(), rows("engine.overlap=dualpipe")
    for policy in plain:
        shown = "communication_exposed"
        assert pairs[policy][shown] < plain[policy][shown]


def test_replicas_wait_for_each_other() -> None:
    """Own loads: the gradient sync waits for the slower replica; shared loads: none is slower."""
    own = rows("workload.synthetic.noise=0.6", "training.grad_sync=exposed")
    shared = rows(
        "workload.synthetic.noise=0.6",
        "training.grad_sync=exposed",
        "training.replica_loads=shared",
    )
    # The shared loads are those that replica 0 has of its own.
    assert own["none"]["iteration_ms"] > shared["none"]["iteration_ms"]


def test_the_drain_of_a_pipeline_is_no_sync() -> None:
    """Early stages wait for the last to end: idle, and sync and optimizer stay what they are."""
    row = rows("training.micro_batches=2", "ep.data_parallel=1")["ideal"]
    jobs, _ = training_jobs(scenario_from_dict(BASE, ["training.micro_batches=2"]))
    job = jobs.job("ideal", 0)
    most = float(job.finish_s.max() + job.bucket_s.sum() + job.extra_bucket_s.sum())
    assert row["sync_exposed"] * row["iteration_ms"] / 1e3 <= most
    assert row["pipeline_idle"] > 0.2  # (P - 1) / (M + P - 1) is a third


def test_every_replica_moves_its_experts() -> None:
    sets = ["policies=[none,{name: eplb, cadence_steps: 1}]"]
    jobs, whole = training_jobs(scenario_from_dict(BASE, sets))
    moved = [jobs.job("eplb", whole[0]).busy(replica)["fwd_distribute"] for replica in (0, 1)]
    assert moved[0][0].max() > 0
    np.testing.assert_array_equal(moved[0], moved[1])
    assert not moved[0][1:].any()


def test_a_replica_does_not_see_what_another_runs_beside_it() -> None:
    """Invariant 9: what came before replica 1's first micro-batch is its own last one."""
    from ultraep_sim.engine.replay import PolicyReplay
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies import get_policy
    from ultraep_sim.trace import Record

    item = PolicyReplay("p", get_policy("predictive", EPLayout(2, 4, 1)), 128, per_replica=2)
    loads = {(s, m): np.full((2, 4), 10 * s + m + 1, np.int64) for s in (0, 1) for m in range(4)}
    seen = {}
    for (step, micro_batch), counts in loads.items():
        record = Record(step, micro_batch, 0, counts.astype(np.int32))
        item.add(record, counts, counts.sum(axis=0), 1)
        seen[step, micro_batch] = item._states[0].previous
    assert seen[0, 0] is None
    assert seen[0, 2] is None
    for now, before in {(0, 1): (0, 0), (0, 3): (0, 2), (1, 0): (0, 1), (1, 2): (0, 3)}.items():
        np.testing.assert_array_equal(seen[now], loads[before].sum(axis=0))


def test_a_warm_up_without_end_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no whole iteration"):
        run("policies=[none,predictive]", "workload.synthetic.steps=1")


def test_a_recorded_trace_is_regrouped(small) -> None:  # type: ignore[no-untyped-def]
    scenario = small("training={micro_batches: 4}", "policies=[none,ultraep]")
    result = run_scenario(scenario)
    assert result.iterations is not None
    assert "4 consecutive micro-batches count as one global batch" in result.workload_label
    per_step = np.bincount(result.records["step"].to_numpy()[: len(result.records) // 2])
    recorded_layers = len(set(result.records["layer"].to_pylist()))
    assert set(per_step.tolist()) == {4 * recorded_layers}


def test_a_slow_gpu_slows_and_planning_by_its_speed_helps() -> None:
    slow = "stragglers={slow_gpus: [{rank: 3, factor: 1.5}]}"
    aware = "policies=[mosaic,{name: mosaic,label: aware,speeds: stragglers}]"
    # Tokens enough that compute, and not the reading of weights, sets the time.
    sets = (*ONE_GROUP, "workload.tokens_per_rank=16384")
    before, after = rows(*sets, "policies=[mosaic]"), rows(*sets, slow, aware)
    assert after["mosaic"]["iteration_ms"] > 1.1 * before["mosaic"]["iteration_ms"]
    assert after["aware"]["iteration_ms"] < after["mosaic"]["iteration_ms"]
    assert before["mosaic"]["layer_time_ms"] == after["mosaic"]["layer_time_ms"]


def test_dead_planes_slow_the_all_to_all() -> None:
    dead = rows("stragglers={dead_planes: {planes: 18, dead: 9, domains: [0]}}")
    assert dead["ideal"]["communication_exposed"] > rows()["ideal"]["communication_exposed"]


def test_a_plane_that_dies_midway_costs_less_than_one_dead_from_the_start() -> None:
    where = "planes: 18, dead: 9, domains: [0]"
    event = "engine.mode=event"
    healthy = rows(event)["none"]["iteration_ms"]
    start = rows(event, f"stragglers={{dead_planes: {{{where}}}}}")["none"]["iteration_ms"]
    late = f"stragglers={{dead_planes: {{{where}, at_s: {healthy / 1e3}}}}}"
    midway = rows(event, late)["none"]["iteration_ms"]
    assert healthy < midway < start


def test_lost_gpus_cost_goodput() -> None:
    often = "stragglers={failures: {mean_time_between_h: 1.0, checkpoint_every_iterations: 5}}"
    found = rows(often)["none"]
    assert 0 < found["goodput"] < 1
    assert found["restarts"] > 0
    assert found["iteration_ms"] == rows()["none"]["iteration_ms"]


def test_lasting_replicas_cost_at_the_end_of_an_iteration() -> None:
    """EPLB's replicas: gradients in the sync, new weights after the optimizer."""
    sets = ["policies=[none,{name: eplb, cadence_steps: 1},ultraep]"]
    jobs, whole = training_jobs(scenario_from_dict(BASE, sets))
    none, eplb, ultraep = (jobs.job(name, whole[0]) for name in ("none", "eplb", "ultraep"))
    assert (eplb.bucket_s > none.bucket_s).all()
    assert (eplb.finish_s > none.finish_s).all()
    np.testing.assert_array_equal(ultraep.bucket_s, none.bucket_s)
    np.testing.assert_array_equal(ultraep.finish_s, none.finish_s)
    # Two slots a rank: somebody's home sends at least one copy in every layer.
    copy = jobs.scenario.model.expert_bytes("bf16") / jobs.scenario.rack.stream_rate
    layers = np.array([2, 3])  # MoE layers of the two stages
    assert (eplb.finish_s - none.finish_s >= layers * copy).all()


def test_files_and_notes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    result = run("training.layer_map=stretch", "workload.synthetic.layers=2")
    result.write(tmp_path)
    table = pq.read_table(tmp_path / "iterations.parquet")
    assert table.num_rows == 3 * 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["scenario"]["training"]["micro_batches"] == 4
    assert any("32 GPUs" in note for note in summary["notes"])
    assert any("neighbours are the same" in note for note in summary["notes"])
    again = tmp_path / "again"
    run("training.layer_map=stretch", "workload.synthetic.layers=2").write(again)
    for name in ("iterations.parquet", "result.parquet"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("training.micro_batches=3", "engine.overlap=two_batch"), "multiple of 2"),
        (("training.virtual_stages=2",), "interleaved goes with"),
        (("training.stage_layers=[3,2]",), "sum to the 6 layers"),
        (("engine.mode=event", "training=null"), "add a training section"),
        (("engine.overlap=dualpipe", "training=null"), "add a training section"),
        (("stragglers={spread: {}}", "training=null"), "add a training section"),
        (("stragglers={thermal: {}}",), "engine.mode: event"),
        (("workload.phase=prefill",), "no backward"),
        (("stragglers={slow_gpus: [{rank: 8, factor: 2}]}",), "0 to 7"),
        (("policies=[{name: mosaic, speeds: stragglers}]",), "one group with stragglers"),
    ],
)
def test_contradictions_are_refused(sets, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ScenarioError, match=words):
        run(*sets)


def test_layers_have_no_iterations() -> None:
    with pytest.raises(ScenarioError, match="training section"):
        training_jobs(scenario_from_dict(BASE, ["training=null"]))
