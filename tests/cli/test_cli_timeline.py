from __future__ import annotations

import gzip
import json

import pytest

from ultraep_sim import cli
from ultraep_sim.commands import timeline
from ultraep_sim.engine.run import run_scenario
from ultraep_sim.scenario import load_scenario

from .command import assert_one_line_error

SCENARIO = """\
name: tiny
model: {preset: qwen3-30b, num_experts: 16, top_k: 2, layers: 4}
rack: paper-rack64
ep: {ranks: 4, slots_per_rank: 1, pipeline_stages: 2}
workload:
  synthetic: {imbalance: 1.5, layers: 4, steps: 2}
  phase: training
  tokens_per_rank: 256
  sequence_length: 256
policies: [none, ultraep, {name: ultraep, label: twin}]
training: {micro_batches: 4}
"""


@pytest.fixture(autouse=True)
def registered() -> None:
    """Give the command line the command, where it has not got it."""
    if all(known.callback is not timeline.timeline for known in cli.app.registered_commands):
        cli.app.command(epilog=timeline.EPILOG)(timeline.timeline)


@pytest.fixture
def scenario(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(SCENARIO)
    return file


def events(file):
    raw = file.read_bytes()
    return json.loads(gzip.decompress(raw) if file.suffix == ".gz" else raw)["traceEvents"]


def named(found, what):
    return {e["args"]["name"] for e in found if e["name"] == f"{what}_name"}


def test_a_trace_and_two_pictures_are_written(invoke, scenario, tmp_path) -> None:
    out, plot = tmp_path / "new" / "t.json.gz", tmp_path / "p.png"
    answer = invoke("timeline", scenario, "--policy", "ultraep", "--out", out, "--plot", plot)
    assert answer.code == 0, answer
    assert answer.out.startswith("tiny under ultraep: ")
    for words in ("phase on the critical path", "stage 1, 4 forwards, 4 backwards", "Memory: rank"):
        assert words in answer.out
    assert "with the kernels of every rank" in answer.err
    for name in ("p.png", "p.svg", "p-layer.png", "p-layer.svg"):
        assert (tmp_path / name).stat().st_size > 5000
    found = events(out)
    assert named(found, "process") == {
        "replica 0 stage 0", "replica 0 stage 1", "critical path",
    }  # fmt: skip
    lanes = {f"rank {r} {lane}" for r in range(4) for lane in ("compute", "send", "receive")}
    assert lanes <= named(found, "thread")
    assert {e["name"] for e in found if e["ph"] == "C"} <= {
        f"memory of rank {r} [GB]" for r in range(4)
    }


def test_sends_and_receives_have_their_own_length(invoke, scenario, tmp_path) -> None:
    out = tmp_path / "t.json"
    assert invoke("timeline", scenario, "--policy", "none", "--out", out).code == 0
    found = events(out)
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    spans = [e for e in found if e["ph"] == "X" and e["name"] == "fwd_dispatch"]
    assert spans
    assert all("direction" not in e["args"] for e in spans)
    pairs: dict[tuple, dict[str, float]] = {}
    for e in spans:
        rank, way = names[e["pid"], e["tid"]].rsplit(" ", 1)
        pairs.setdefault((e["pid"], rank, e["ts"]), {})[way] = e["dur"]
    assert any(abs(p.get("send", 0) - p.get("receive", 0)) > 1 for p in pairs.values())


def test_json_is_one_document_whose_parts_sum(invoke, scenario, tmp_path) -> None:
    out = tmp_path / "t.json"
    answer = invoke("timeline", scenario, "--policy", "twin", "--out", out, "--json")
    assert answer.code == 0, answer
    data = json.loads(answer.out)
    assert (data["scenario"], data["policy"], data["files"]) == ("tiny", "twin", [str(out)])
    path = data["critical_path"]
    assert path["seconds"] == pytest.approx(data["iteration_s"])
    assert sum(phase["seconds"] for phase in path["phases"]) == pytest.approx(data["iteration_s"])
    fullest = data["fullest_rank"]
    levels = zip(fullest["activations"], fullest["buffers"], strict=True)
    fixed = sum(fullest["parts"].values())
    assert fullest["peak"] == pytest.approx(fixed + max(a + b for a, b in levels))


def test_large_iterations_show_fewer_ranks(invoke, scenario, tmp_path, monkeypatch) -> None:
    out = tmp_path / "t.json"
    monkeypatch.setattr(timeline, "ALL_RANKS", 0)
    two = ("--set", "ep.data_parallel=2", "--set", "training.replica_loads=shared")
    answer = invoke("timeline", scenario, "--out", out, *two)
    assert "the slowest rank of every stage of replica 0" in answer.err
    found = events(out)
    computing = {(e["pid"], e["tid"]) for e in found if e.get("cat") == "compute"}
    assert sorted(pid for pid, _ in computing) == [1, 2]  # one rank in each stage of it
    blocks = {(e["ts"], e["dur"]) for e in found if e.get("cat") == "pipeline" and e["pid"] == 2}
    inside = [e for e in found if e.get("cat") == "compute" and e["pid"] == 2]
    assert all(
        any(at <= e["ts"] and e["ts"] + e["dur"] <= at + long + 1e-3 for at, long in blocks)
        for e in inside
    )
    monkeypatch.setattr(timeline, "ANY_RANK", 0)
    answer = invoke("timeline", scenario, "--out", out)
    assert "too many for the threads of ranks" in answer.err
    assert named(events(out), "thread") == {"pipeline", "after the last backward", "critical path"}


def test_a_spell_shows_on_the_critical_path(invoke, scenario, tmp_path) -> None:
    spell = "stragglers={thermal: {rate_per_gpu_hour: 0, episodes: [EPISODE]}}".replace(
        "EPISODE", "{gpu: 4, factor: 3, start_s: 0, end_s: 10}"
    )
    answers = [
        invoke("timeline", scenario, "--out", tmp_path / "t.json", "--json", *extra)
        for extra in ((), ("--set", "engine.mode=event", "--set", spell))
    ]
    assert [answer.code for answer in answers] == [0, 0], answers
    plain, slow = (json.loads(answer.out) for answer in answers)
    assert slow["iteration_s"] > 1.5 * plain["iteration_s"]
    other = [p["seconds"] for p in slow["critical_path"]["phases"] if p["name"] == "other"]
    assert sum(other) == pytest.approx(slow["iteration_s"] - plain["iteration_s"], rel=0.2)


def test_an_iteration_is_that_of_the_run(invoke, scenario, tmp_path) -> None:
    """The spell is over before the second iteration of a run begins, and covers the first."""
    spell = "stragglers={thermal: {rate_per_gpu_hour: 0, episodes: [EPISODE]}}"
    spell = spell.replace("EPISODE", "{gpu: 4, factor: 3, start_s: 0, end_s: 0.012}")
    sets = ("engine.mode=event", spell)
    iterations = run_scenario(load_scenario(scenario, sets)).iterations
    wanted = [row["iteration_s"] for row in iterations.to_pylist() if row["policy"] == "ultraep"]
    assert wanted[0] > 1.1 * wanted[1]
    for number, seconds in enumerate(wanted):
        answer = invoke(
            "timeline", scenario, "--policy", "ultraep", "--iteration", number, "--json",
            "--out", tmp_path / "t.json", *(word for one in sets for word in ("--set", one)),
        )  # fmt: skip
        assert json.loads(answer.out)["iteration_s"] == seconds


def test_policies_are_shown_at_the_same_step(invoke, tmp_path) -> None:
    """Iterations count from where the policy with the longest history is warm."""
    file = tmp_path / "history.yaml"
    text = SCENARIO.replace("steps: 2", "steps: 6")
    file.write_text(text.replace("[none, ultraep,", "[none, {name: eplb, cadence_steps: 2},"))
    run = run_scenario(load_scenario(file)).iterations.to_pylist()
    first = min(row["step"] for row in run)
    assert first > 0
    for policy in ("none", "eplb", "twin"):
        answer = invoke(
            "timeline", file, "--policy", policy, "--out", tmp_path / "t.json", "--json"
        )
        shown = json.loads(answer.out)
        assert shown["step"] == first
        (told,) = (row for row in run if (row["policy"], row["step"]) == (policy, first))
        assert shown["iteration_s"] == told["iteration_s"]


def test_a_tree_that_is_off_moves_no_weights(invoke, scenario, tmp_path, monkeypatch) -> None:
    from ultraep_sim.engine import traffic

    seen = []
    kept = traffic.PhaseTraffic.__init__
    monkeypatch.setattr(
        traffic.PhaseTraffic, "__init__", lambda self, *a: seen.append(a) or kept(self, *a)
    )
    wide = ("--set", "ep.ranks=16", "--set", "workload.synthetic.imbalance=6",
            "--set", "ep.slots_per_rank=2", "--policy", "ultraep", "--out", tmp_path / "t.json",
            "--set", "model.num_experts=64")  # fmt: skip
    for relay in ("auto", "off"):
        assert invoke("timeline", scenario, *wide, "--set", f"engine.relay={relay}").code == 0
    assert seen[0][1].relayed.any()
    assert (seen[0][-1] == seen[0][1].relayed).all()
    assert not seen[1][-1].any()


@pytest.mark.parametrize("name", ["t.txt", "t", "t.gz", "t.json.zip"])
def test_a_trace_that_would_not_be_json_is_refused(invoke, scenario, tmp_path, name) -> None:
    answer = invoke("timeline", scenario, "--out", tmp_path / "new" / name)
    assert_one_line_error(answer, "--out", "t.json or .json.gz")
    assert not (tmp_path / "new").exists()


def test_wrong_questions_are_refused(invoke, scenario, tmp_path) -> None:
    out = ("--out", tmp_path / "t.json", "--plot", tmp_path / "p")
    layers = tmp_path / "layers.yaml"
    layers.write_text(SCENARIO.replace("training: {micro_batches: 4}\n", ""))
    assert_one_line_error(invoke("timeline", layers), "training", "micro_batches: 8")
    assert_one_line_error(invoke("timeline", scenario, "--policy", "eplb"), "--policy", "eplb")
    assert_one_line_error(invoke("timeline", scenario, *out[:2], "--iteration", "2"), "give 0 to 1")
    assert_one_line_error(invoke("timeline", scenario, "--out", ""), "--out", "empty path")
    assert_one_line_error(invoke("timeline", scenario, *out, "--layer", "4"), "layer", "0 to 3")
    assert_one_line_error(
        invoke("timeline", scenario, *out, "--micro-batch", "-1"), "micro_batch", "0 to 3"
    )
