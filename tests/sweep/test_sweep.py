from __future__ import annotations

import csv
import dataclasses

import pyarrow.parquet as pq
import pytest

from ultraep_sim.errors import InputError, ScenarioError
from ultraep_sim.report.plot_sweep import draw
from ultraep_sim.sweep import (
    PlotSpec,
    SweepResult,
    backends,
    expand,
    load_sweep,
    resolve,
    run_point,
    run_sweep,
)
from ultraep_sim.sweep.spec import RESULT_COLUMNS

GRID = """
    question: slots or seeds?
    base: base.yaml
    set: {workload.synthetic.imbalance: 1.8}
    vary:
      ep.slots_per_rank: [0, 2]
      load:
        - {value: calm, set: {seed: 1, workload.synthetic.noise: 0.0}}
        - {value: {noise: 0.1, kind: noisy}, set: {seed: 2, workload.synthetic.noise: 0.1}}
"""


def test_the_grid_is_the_product_of_its_axes(write):
    spec = load_sweep(write(GRID))
    points = expand(spec)
    assert [dict(point.values) for point in points] == [
        {"ep.slots_per_rank": 0, "load": "calm"},
        {"ep.slots_per_rank": 0, "noise": 0.1, "kind": "noisy"},
        {"ep.slots_per_rank": 2, "load": "calm"},
        {"ep.slots_per_rank": 2, "noise": 0.1, "kind": "noisy"},
    ]
    assert points[1].overrides == (
        "workload.synthetic.imbalance=1.8", "ep.slots_per_rank=0", "seed=2",
        "workload.synthetic.noise=0.1",
    )  # fmt: skip
    assert spec.columns == ["ep.slots_per_rank", "load", "noise", "kind"]
    keys = [resolve(point).key for point in points]
    assert len(set(keys)) == 4
    assert [resolve(point).key for point in expand(spec)] == keys


def test_rows_say_point_policy_and_load(write, tmp_path):
    result = run_sweep(load_sweep(write(GRID)))
    assert len(result.rows) == 4 * 3
    first = result.rows[1]
    assert (first["ep.slots_per_rank"], first["load"], first["policy"]) == (0, "calm", "ultraep")
    assert first["workload"].startswith("SYNTHETIC")
    by_slots = {r["ep.slots_per_rank"]: r for r in result.rows if r["policy"] == "ultraep"}
    assert by_slots[2]["mean_rank_imbalance"] < by_slots[0]["mean_rank_imbalance"]

    files = result.write(tmp_path / "out")
    assert [file.name for file in files] == ["sweep.csv", "sweep.parquet"]
    with files[0].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["policy"] for line in lines] == ["none", "ultraep", "ideal"] * 4
    assert lines[3]["load"] == ""
    assert float(lines[0]["layer_time_ms"]) == result.rows[0]["layer_time_ms"]
    assert pq.read_table(files[1]).column("policy").to_pylist() == ["none", "ultraep", "ideal"] * 4
    again = run_sweep(load_sweep(write(GRID)))
    assert again.to_csv() == result.to_csv()


FAILURES = """
    base: base.yaml
    set:
      training: {micro_batches: 2}
      ep.pipeline_stages: 2
      stragglers: {failures: {losses: [{gpu: 1, at_s: 1.0}]}}
    vary: {engine.deduplicate: [true, false]}
"""


def test_booleans_are_swept_and_no_result_column_is_free(write, tmp_path):
    result = run_sweep(load_sweep(write(FAILURES)))
    assert [row["engine.deduplicate"] for row in result.rows] == [True] * 3 + [False] * 3
    assert set(result.columns) - {"engine.deduplicate"} == RESULT_COLUMNS
    result.write(tmp_path / "out")
    told = pq.read_table(tmp_path / "out" / "sweep.parquet").column("engine.deduplicate")
    assert told.to_pylist() == [True] * 3 + [False] * 3


def test_rows_say_whether_they_fit_and_what_else_to_know(write, monkeypatch):
    from ultraep_sim.engine import run as engine

    path = write("base: base.yaml\nvary: {seed: [1, 2]}\n")
    plain = run_sweep(load_sweep(path))
    assert all(row["fits"] is True and 0 < row["memory_GB"] < 80 for row in plain.rows)
    (note,) = (text for text in plain.notes if "records count in every mean" in text)
    assert " points)" not in note

    use = engine.memory_use
    small = max(row["memory_GB"] for row in plain.rows if row["policy"] == "none") * 1e9
    monkeypatch.setattr(
        engine, "memory_use", lambda *a, **b: dataclasses.replace(use(*a, **b), capacity=small)
    )
    tight = run_sweep(load_sweep(path))
    assert {(row["policy"], row["fits"]) for row in tight.rows} >= {
        ("none", True), ("ultraep", False),
    }  # fmt: skip
    assert not any("does not fit" in text for text in tight.notes)


def test_notes_say_at_how_many_points(write):
    spec = load_sweep(write("base: base.yaml\nvary: {seed: [1, 2, 3]}\n"))
    rows = [{"seed": seed, "policy": p, "notes": "a"} for seed in (1, 2) for p in ("x", "y")]
    assert SweepResult(spec, [*rows, {"seed": 3, "policy": "x", "notes": "a | b"}]).notes == [
        "a", "b (at 1 of 3 points)",
    ]  # fmt: skip


def test_all_points_are_read_before_the_first_runs(write, monkeypatch):
    spec = load_sweep(write("base: base.yaml\nvary: {ep.slots_per_rank: [1, -1]}\n"))
    ran = []
    monkeypatch.setattr(backends, "run_point", lambda *a: ran.append(a))
    with pytest.raises(ScenarioError, match=r"ep\.slots_per_rank=-1: a point of the sweep"):
        run_sweep(spec)
    assert not ran


def test_a_trace_is_named_relative_to_the_sweep(write, tmp_path):
    path = write("base: base.yaml\nvary: {workload.trace: [here.parquet]}\n")
    (point,) = expand(load_sweep(path))
    assert point.overrides == (f'workload.trace="{tmp_path / "here.parquet"}"',)


def test_a_point_that_cannot_run_is_named(write):
    path = write("base: base.yaml\nvary: {ep.slots_per_rank: [1, 99]}\n")
    with pytest.raises(ScenarioError, match=r"ep\.slots_per_rank=99: a point of the sweep"):
        run_point(expand(load_sweep(path))[1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vary: {seed: [1]}", "base"),
        ("base: base.yaml", "nothing varies"),
        ("base: base.yaml\nvary: {}", "nothing varies"),
        ("base: base.yaml\nvary: {seed: []}", "seed has no value"),
        ("base: base.yaml\nvary: {seed: [1, 1]}", "seed has a value twice"),
        ("base: base.yaml\nvary: {a: [1, {value: 2, set: {seed: 2}}]}", "mixes plain values"),
        ("base: base.yaml\nvary: {a: [{value: 2}]}", "set"),
        ("base: base.yaml\nvary: {seed: [1]}\nvaries: 2", "unknown key"),
        ("base: base.yaml\nvary: {seed: [1]}\nplot: {x: seed}", "plot.y (line 3)"),
        ("base: base.yaml\nvary: {a: &l [0,1,2,3,4,5,6,7,8,9]}\n", ""),
        ("base: base.yaml\nvary: {policy: [{value: 2, set: {seed: 2}}]}", "a column policy"),
        ("base: base.yaml\nvary: {a: [{value: {fits: 2}, set: {seed: 2}}]}", "a column fits"),
        (
            "base: base.yaml\nvary: {a: [{value: {x: 2}, set: {seed: 2}}], seed: [1],"
            " x: [{value: 3, set: {seed: 3}}]}",
            "vary.a and vary.x both give a column x",
        ),
        ("- 1", "a sweep is a mapping"),
        ("vary: [", "sweep.yaml"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(write, text, says):
    path = write(text)
    if not says:
        with pytest.raises(InputError):
            run_sweep(load_sweep(path))
        return
    with pytest.raises(ScenarioError) as caught:
        load_sweep(path)
    assert says in str(caught.value)
    assert "sweep.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_huge_grid_is_refused(write):
    axes = "\n".join(f"  a{i}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for i in range(9))
    with pytest.raises(ScenarioError, match="1000000000 points"):
        load_sweep(write(f"base: base.yaml\nvary:\n{axes}\n"))


def test_a_missing_file_names_what_is_near(write, tmp_path):
    write("vary: {}", "slots.yaml")
    with pytest.raises(ScenarioError, match=r"slots\.yaml"):
        load_sweep(tmp_path / "slot.yaml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_sweep(tmp_path)


ROWS = [
    {"x": x, "y": x * 2.0 + (policy == "none"), "policy": policy, "part": part, "workload": w}
    for x in (1, 2, 4)
    for policy in ("none", "ultraep")
    for part, w in (("a", "SYNTHETIC: m"), ("b", "recorded: m"))
]


def test_the_plot_has_a_line_each_and_starts_at_zero(tmp_path, monkeypatch):
    from ultraep_sim.report import plot_sweep

    seen = []
    monkeypatch.setattr(plot_sweep, "save", lambda figure, stem: seen.append(figure) or [stem])
    plot = PlotSpec(x="x", y="y", panels="part", title="T", log_x=True, reference=1.0)
    draw(ROWS, plot, tmp_path / "p")
    left, right = seen[0].axes
    assert [line.get_label() for line in left.lines[:2]] == ["none", "ultraep"]
    assert left.lines[0].get_ydata().tolist() == [3.0, 5.0, 9.0]
    assert left.get_ylim()[0] == 0
    assert [left.get_title("left"), right.get_title("left")] == ["part a", "part b"]
    assert seen[0]._suptitle.get_text() == "T (partly SYNTHETIC)"

    draw(ROWS, PlotSpec(x="x", y="y", only={"part": ["a"]}, title="T"), tmp_path / "p")
    assert seen[1]._suptitle.get_text() == "T (SYNTHETIC load)"


def test_what_does_not_fit_is_hollow(tmp_path, monkeypatch):
    from ultraep_sim.report import plot_sweep

    seen = []
    monkeypatch.setattr(plot_sweep, "save", lambda figure, stem: seen.append(figure) or [stem])
    plot = PlotSpec(x="x", y="y", only={"part": ["a"]})
    rows = [row | {"fits": row["policy"] == "none" or row["x"] < 4} for row in ROWS]
    draw(rows, plot, tmp_path / "p")
    hollow = [line for line in seen[0].axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[4.0, 8.0]]]
    assert "does not fit" in seen[0].get_supxlabel()
    draw(ROWS, plot, tmp_path / "p")
    assert not seen[1].get_supxlabel()
    on_off = [row | {"x": row["x"] > 1} for row in ROWS if row["x"] < 4]
    draw(on_off, plot, tmp_path / "p")
    assert [text.get_text() for text in seen[2].axes[0].get_xticklabels()] == ["False", "True"]


def test_the_same_rows_give_the_same_picture(tmp_path):
    plot = PlotSpec(x="policy", y="y", lines=("x", "part"))
    one = draw(ROWS, plot, tmp_path / "a")
    two = draw(ROWS, plot, tmp_path / "b")
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


@pytest.mark.parametrize(
    ("plot", "says"),
    [
        (PlotSpec(x="x", y="z"), "no such column"),
        (PlotSpec(x="x", y="y", only={"part": ["c"]}), "no row is left"),
    ],
)
def test_a_plot_of_what_is_not_there_is_refused(tmp_path, plot, says):
    with pytest.raises(InputError, match=says):
        draw(ROWS, plot, tmp_path / "p")
