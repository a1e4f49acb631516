import gzip
import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.jobs import jobs, make_job
from ultraep_sim.engine.critical_path import critical_path
from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.memory_timeline import GroupMemory
from ultraep_sim.report.blocks import blocks
from ultraep_sim.report.perfetto import ChromeTrace


def read(path):
    raw = path.read_bytes()
    data = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    assert set(data) == {"displayTimeUnit", "traceEvents"}
    return data["traceEvents"]


def complete(events):
    return [event for event in events if event["ph"] == "X"]


def threads(events):
    """Names of threads by (pid, tid)."""
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def assert_nested(events):
    """On a thread, spans lie one after the other or one inside the other; none cut each other."""
    by_thread = defaultdict(list)
    for event in complete(events):
        start = round(1000 * event["ts"])
        by_thread[event["pid"], event["tid"]].append((start, start + round(1000 * event["dur"])))
    for spans in by_thread.values():
        open_until = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


BUSY = {"fwd_attention": 1e-3, "fwd_dispatch": 2e-3, "bwd_compute": 3e-3, "fwd_plan": 5e-4}


def test_a_unit_by_hand(tmp_path) -> None:
    job = make_job(ranks=2, busy=BUSY)
    with ChromeTrace(tmp_path / "t.json", 1, 2) as trace:
        run_event(job, spans=trace.span)
    events = read(tmp_path / "t.json")
    names = threads(events)
    found = {
        (names[e["pid"], e["tid"]], e["name"]): (e["ts"], e["dur"], e["args"])
        for e in complete(events)
    }
    at = {"micro_batch": 0, "layer": 0}
    unknown = {**at, "direction": "not known"}
    assert found["rank 0 compute", "fwd_attention"] == (0, 1000, at)
    assert found["rank 1 plan", "fwd_plan"] == (1000, 500, at)
    assert found["rank 1 send", "fwd_dispatch"] == (1500, 2000, unknown)
    assert found["rank 1 receive", "fwd_dispatch"] == (1500, 2000, unknown)
    assert found["rank 0 compute", "bwd_compute"] == (3500, 3000, at)
    assert len(found) == 10
    assert trace.events == len(events)


def test_known_traffic_gives_both_directions_their_length(tmp_path) -> None:
    shares = {0: (1.0, 0.25), 1: (0.0, 1.0)}
    with ChromeTrace(tmp_path / "t.json", 1, 2, lambda phase, rank, m, layer: shares[rank]) as out:
        for rank in (0, 1):
            out.span(rank, "comm", "fwd_dispatch", 1e-3, 3e-3, 0, 4)
    events = read(tmp_path / "t.json")
    names = threads(events)
    found = {names[e["pid"], e["tid"]]: (e["ts"], e["dur"]) for e in complete(events)}
    assert found == {
        "rank 0 send": (1000, 2000),
        "rank 0 receive": (1000, 500),
        "rank 1 receive": (1000, 2000),
    }
    assert all("direction" not in e["args"] for e in complete(events))


def test_groups_are_processes_with_names(tmp_path) -> None:
    job = make_job(stages=2, replicas=2, ranks=2, busy=BUSY, finish_s=1e-3, bucket_s=2e-3)
    times = run_fast(job)
    with ChromeTrace(tmp_path / "t.json", 2, 2) as trace:
        trace.pipeline(times, job.finish_s)
        trace.critical(critical_path(job, times), 4)
    events = read(tmp_path / "t.json")
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {
        1: "replica 0 stage 0", 2: "replica 0 stage 1", 3: "replica 1 stage 0",
        4: "replica 1 stage 1", 5: "critical path",
    }  # fmt: skip
    on = {pid: [e["name"] for e in complete(events) if e["pid"] == pid] for pid in names}
    assert on[2] == ["F 0", "B 0", "gradient sync", "optimizer"]
    path = [e for e in complete(events) if e["pid"] == 5]
    assert path[0]["name"] == "forward 0 on stage 0"
    assert path[-1]["name"] == "finish on stage 0"
    assert path[-1]["args"]["replica"] == "all"
    assert sum(e["dur"] for e in path) == pytest.approx(1e6 * times.iteration_s)


def test_memory_is_a_counter(tmp_path) -> None:
    memory = GroupMemory(
        1, 1, {"weights": np.array([1e9, 2e9])}, np.array([0.0, 0.5, 1.0]),
        np.array([[0, 0], [3e9, 4e9]]), np.array([[0, 1e9], [0, 0]]),
    )  # fmt: skip
    with ChromeTrace(tmp_path / "t.json", 2, 2) as trace:
        trace.memory(memory, 1)
    found = [e for e in read(tmp_path / "t.json") if e["ph"] == "C"]
    assert {e["pid"] for e in found} == {4}
    assert [(e["ts"], e["args"]) for e in found] == [
        (0, {"activations": 0.0, "all else": 3.0}),
        (500_000, {"activations": 4.0, "all else": 2.0}),
    ]


def test_joint_units_are_one_block() -> None:
    job = make_job(stages=2, micro_batches=3, busy=BUSY, overlap="dualpipe")
    found = blocks(run_fast(job), 0, [1])
    assert [block.title for block in found] == ["F 0", "F 1 + B 0", "F 2 + B 1", "B 2"]
    assert found[1].virtual_stages == [1, 1]


def test_the_same_run_gives_the_same_bytes_and_gz_the_same_events(tmp_path) -> None:
    job = make_job(ranks=2, busy=BUSY)
    for name in ("a.json", "b.json", "c.json.gz", "d.json.gz"):
        with ChromeTrace(tmp_path / name, 1, 2) as trace:
            run_event(job, spans=trace.span)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "c.json.gz").read_bytes() == (tmp_path / "d.json.gz").read_bytes()
    assert read(tmp_path / "a.json") == read(tmp_path / "c.json.gz")


def test_a_trace_without_events_is_valid(tmp_path) -> None:
    with ChromeTrace(tmp_path / "t.json", 1, 1):
        pass
    assert read(tmp_path / "t.json") == []


def broken_off(path):
    with ChromeTrace(path, 1, 1) as trace:
        trace.span(0, "compute", "fwd_compute", 0.0, 1.0, 0, 0)
        trace.span(0, "no such lane", "fwd_compute", 0.0, 1.0, 0, 0)


def test_a_broken_off_trace_leaves_no_file(tmp_path) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        broken_off(tmp_path / "t.json")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(job=jobs(), known=st.booleans())
def test_spans_nest_and_end_with_the_iteration(tmp_path_factory, job, known) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("trace") / "t.json"
    traffic = (lambda phase, rank, m, layer: (0.5, 1.0)) if known else None
    with ChromeTrace(file, job.stages, job.ranks, traffic) as trace:
        times = run_event(job, spans=trace.span)
        trace.pipeline(times, job.finish_s)
        trace.critical(critical_path(job, times), job.replicas * job.stages)
    events = read(file)
    assert_nested(events)
    for event in complete(events):
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert event["ts"] + event["dur"] <= 1e6 * times.iteration_s + 1e-2
    named = set(threads(events))
    assert len({tid for _, tid in named}) == len(named)  # no two processes share a number
    assert all(pid > 0 and tid > 0 for pid, tid in named)  # 0 is the idle one to viewers
    assert {(e["pid"], e["tid"]) for e in complete(events)} <= named
