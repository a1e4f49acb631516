"""Whole runs: the figures hang together, and the same inputs give the same bytes."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ultraep_sim.engine.layer import layer_times
from ultraep_sim.engine.replay import Chunk
from ultraep_sim.engine.replayed import _columns
from ultraep_sim.engine.run import run_scenario
from ultraep_sim.errors import ScenarioError, TraceError
from ultraep_sim.trace import Trace, load_trace

from .counts import make_price, make_stats
from .test_layer import OPTIONS, RACK, SHAPE

KEYS = [
    "policy",
    "mean_rank_imbalance",
    "p99_rank_imbalance",
    "layer_time_ms",
    "fraction_of_ideal",
    "speedup_over_none",
    "exposed_overhead_us_per_layer",
    "replicas_per_plan",
    "activation_peak_ratio",
]


def by_policy(result):
    return {row["policy"]: row for row in result.rows}


def test_rows_hold_what_the_contract_says(small):
    result = run_scenario(small())
    assert [list(row) for row in result.rows] == [KEYS] * 5
    assert [row["policy"] for row in result.rows] == [
        "none", "eplb", "eplb_plus", "ultraep", "ideal",
    ]  # fmt: skip


def test_figures_hang_together(small):
    rows = by_policy(run_scenario(small()))
    none, ultraep, ideal = rows["none"], rows["ultraep"], rows["ideal"]
    assert none["speedup_over_none"] == ideal["fraction_of_ideal"] == 1.0
    assert ideal["mean_rank_imbalance"] == 1.0
    assert ideal["activation_peak_ratio"] == pytest.approx(1.0, abs=0.01)
    assert 1.0 <= ultraep["mean_rank_imbalance"] < none["mean_rank_imbalance"]
    assert none["exposed_overhead_us_per_layer"] == ideal["exposed_overhead_us_per_layer"] == 0
    for row in rows.values():
        assert row["layer_time_ms"] >= ideal["layer_time_ms"]
        assert row["p99_rank_imbalance"] >= row["mean_rank_imbalance"] >= 1.0
        assert row["fraction_of_ideal"] * row["layer_time_ms"] == pytest.approx(
            ideal["layer_time_ms"]
        )


def test_records_agree_with_the_rows(small):
    result = run_scenario(small())
    table = {name: result.records[name].to_pylist() for name in result.records.column_names}
    policy, warm = np.array(table["policy"]), np.array(table["warm"])
    counted = np.logical_and.reduce([warm[policy == p] for p in dict.fromkeys(table["policy"])])
    for row in result.rows:
        mine = policy == row["policy"]
        times = np.array(table["layer_time_s"])[mine]
        assert times[counted].mean() * 1e3 == pytest.approx(row["layer_time_ms"])
        phases = [name for name in table if name.startswith(("fwd_", "bwd_"))]
        total = sum(np.array(table[name])[mine] for name in phases)
        assert total == pytest.approx(times)
        pairs = np.array(table["rank_pairs"])[mine]
        assert (pairs.sum(axis=1) == 8 * 512 * 2).all()
        assert pairs.max(axis=1) / pairs.mean(axis=1) == pytest.approx(
            np.array(table["imbalance"])[mine]
        )


def test_invariant_8_same_inputs_same_bytes(small, tmp_path):
    for name in ("one", "two"):
        run_scenario(small()).write(tmp_path / name, ["ultraep-sim", "run"])
    for file in ("result.parquet", "summary.json", "scenario.yaml"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_policy_does_not_change_the_others(small):
    """Dropping a policy leaves every other policy's records as they were."""
    all_of_them = run_scenario(small("engine.warmup=include")).records
    fewer = run_scenario(small("engine.warmup=include", "policies=[ultraep]")).records
    mine = all_of_them.filter(np.array(all_of_them["policy"].to_pylist()) == "ultraep")
    assert mine.to_pydict() == fewer.to_pydict()


def test_references_are_replayed_though_not_listed(small):
    rows = run_scenario(small("policies=[ultraep]", "engine.warmup=include")).rows
    listed = by_policy(run_scenario(small("engine.warmup=include")))
    assert len(rows) == 1
    assert rows[0] == listed["ultraep"]


def test_warm_up_is_left_out_for_all_alike(small):
    result = run_scenario(small())
    table = result.records
    warm = np.array(table["warm"].to_pylist())
    policy = np.array(table["policy"].to_pylist())
    assert (~warm[policy == "eplb"]).sum() == 4  # two steps of two layers
    assert warm[policy == "ultraep"].all()
    assert any("left out" in note for note in result.notes)


def test_too_short_a_trace_for_a_cadence_is_refused(small):
    with pytest.raises(ScenarioError, match="cadence_steps 50"):
        run_scenario(small("policies.1.cadence_steps=50"))
    run_scenario(small("policies.1.cadence_steps=50", "engine.warmup=include"))


def test_written_directory_is_complete_and_reloads(small, tmp_path):
    from ultraep_sim.scenario import load_scenario

    result = run_scenario(small())
    out = result.write(tmp_path / "runs" / "deep", ["cmd"])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rows"] == result.rows
    assert summary["trace"]["digest"] == result.trace_digest
    assert summary["workload"].startswith("SYNTHETIC")
    assert len(pq.read_table(out / "result.parquet")) == 5 * 24
    again = run_scenario(load_scenario(out / "scenario.yaml"))
    assert again.rows == result.rows


def test_progress_counts_records(small):
    calls = []
    run_scenario(small(), progress=lambda *args: calls.append(args))
    assert calls[-1] == ("replaying", 24, 24)
    assert [done for _, done, _ in calls] == sorted({done for _, done, _ in calls})


def test_trace_and_model_must_fit(small):
    with pytest.raises(ScenarioError, match="experts"):
        run_scenario(small("model=qwen3-30b"))


def test_empty_slice_and_unknown_layer_are_named(small):
    with pytest.raises(ScenarioError, match=r"workload\.steps"):
        run_scenario(small("workload.steps=[500,600]"))
    with pytest.raises(ScenarioError, match=r"workload\.layers"):
        run_scenario(small("workload.layers=[0,7]"))


def test_layers_are_sliced(small):
    result = run_scenario(small("workload.layers=[1]"))
    assert set(result.records["layer"].to_pylist()) == {1}


def test_a_trace_that_broke_after_loading_the_scenario_is_named(small, tmp_path):
    scenario = small()
    (tmp_path / "small.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(TraceError, match=r"small\.parquet"):
        run_scenario(scenario)


@pytest.mark.parametrize("ranks", [1, 2, 4, 16, 64])
def test_other_ep_sizes_merge_or_spread_the_sources(small, ranks):
    result = run_scenario(small(f"ep.ranks={ranks}"))
    rows = by_policy(result)
    assert rows["ultraep"]["mean_rank_imbalance"] <= rows["none"]["mean_rank_imbalance"]
    assert "sources" in result.workload_label or ranks == 8


def test_small_domains_send_across(small):
    far = by_policy(run_scenario(small("ep.domain_size=2")))
    near = by_policy(run_scenario(small()))
    assert far["none"]["layer_time_ms"] > near["none"]["layer_time_ms"]


def test_a_million_tokens_a_rank_do_not_overflow():
    """Top-8 on 64 ranks: the hottest rank's 320 million pairs times 64 leave int32."""
    mean = 8_000_000
    hot = 40 * mean
    pairs = [hot] + [(64 * mean - hot) // 63] * 63
    stats = make_stats(pairs=pairs, tiles=1)
    times = layer_times(SHAPE, RACK, stats, make_price(), OPTIONS)
    at = np.zeros(1, np.int64)
    chunk = Chunk("hot", at, at, at, np.ones(1, np.bool_), np.ones(1), stats)
    got = _columns(chunk, times)
    assert got["imbalance"] == pytest.approx(40, rel=1e-6)
    assert got["rank_pairs"].dtype == np.int32
    assert got["rank_pairs"][0].tolist() == pairs


def test_the_policy_that_was_never_warm_is_named(small):
    """A one-step trace: predictive has no micro-batch before, and no cadence to blame."""
    sets = ("workload.steps=[0,1]", "policies=[ultraep, predictive]")
    with pytest.raises(
        ScenarioError, match=r"policy predictive \(got '0 of 2 records warm'"
    ) as err:
        run_scenario(small(*sets))
    assert "cadence" not in str(err.value)
    with pytest.raises(ScenarioError, match="policy eplb "):
        run_scenario(
            small(
                "workload.steps=[0,2]",
                "policies=[predictive, {name: eplb, cadence_steps: 2}, ultraep]",
            )
        )


def test_the_activation_peak_is_that_of_the_records_that_count(small, tmp_path):
    """Step 0 sends everything to one expert a source; it is warm-up for eplb."""
    scenario = small("policies=[none, {name: eplb, cadence_steps: 2}]")
    trace = load_trace(tmp_path / "small.parquet")
    records = []
    for record in trace:
        loads = record.loads.copy()
        if record.step == 0:
            loads[:] = 0
            loads[:, :2] = 64
        records.append((record.step, record.micro_batch, record.layer, loads))
    Trace.from_records(trace.meta, records).write(tmp_path / "small.parquet")
    counted = by_policy(run_scenario(scenario))["none"]["activation_peak_ratio"]
    everything = by_policy(run_scenario(small("policies=[none]", "engine.warmup=include")))["none"][
        "activation_peak_ratio"
    ]
    without = by_policy(
        run_scenario(small("policies=[none]", "engine.warmup=include", "workload.steps=[2,12]"))
    )["none"]["activation_peak_ratio"]
    assert counted == without < everything


def test_notes_say_what_is_not_charged(small):
    def told(word, *sets):
        return [note for note in run_scenario(small(*sets)).notes if word in note]

    (note,) = told("gradients")
    assert note.startswith("the replica gradients of eplb are summed once a global batch")
    assert not told("gradients", "workload.phase=prefill")
    assert not told("gradients", "policies=[none, ultraep, ideal]")
    free = "policies=[ultraep, {name: eplb, cadence_steps: 2, migration: free}]"
    assert "eplb" in told("gradients", free)[0]
    assert not told("stragglers")
    (note,) = told("stragglers", "policies=[{name: mosaic, speeds: [1, 1, 1, 1, 1, 1, 1, 2]}]")
    assert note.startswith("mosaic plans")


def test_more_slots_than_offered_are_told_and_charged(small):
    result = run_scenario(small("policies=[none,moonep]", "ep.slots_per_rank=0"))
    assert any("moonep needs 2 slots" in note for note in result.notes)
    memory = {use["policy"]: use["parts"]["slot weights"] for use in result.memory}
    assert memory["moonep"] > memory["none"] == 0


def test_deduplicated_tokens_travel_once(small):
    """Eight ranks of two experts, top-2: some tokens want both experts of a rank."""
    plain, once = (run_scenario(small(*sets)) for sets in ((), ("engine.deduplicate=true",)))
    for before, after in zip(plain.rows, once.rows, strict=True):
        assert after["layer_time_ms"] <= before["layer_time_ms"]
        assert after["mean_rank_imbalance"] == before["mean_rank_imbalance"]
    fraction = [np.mean(r.records["remote_fraction"].to_numpy()) for r in (plain, once)]
    assert 0.8 * fraction[0] < fraction[1] < fraction[0]
