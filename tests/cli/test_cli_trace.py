from __future__ import annotations

import json

import pytest

from ultraep_sim.trace import synthesize

from .command import assert_one_line_error


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    file = tmp_path_factory.mktemp("trace") / "toy.parquet"
    synthesize(32, 4, 2, 5, 4, 64, imbalance=1.5, at_ranks=8).write(file)
    return file


def test_info_tells_shape_checks_imbalance_and_dynamics(trace, invoke):
    out = " ".join(invoke("trace", "info", trace).out.split())
    for text in ("SYNTHETIC", "32 experts top-4", "10 records", "EP8 mean", "lag 1", "Checks"):
        assert text in out
    assert "EP64" not in out  # there are only 32 experts


def test_info_json_holds_the_meta_and_the_statistics(trace, invoke):
    data = json.loads(invoke("trace", "info", trace, "--json").out)
    assert data["meta"]["synthetic"] is True
    assert data["num_records"] == 10
    assert len(data["layers"]) == 2
    assert data["overall"]["imbalance"]["8"]["mean"] == pytest.approx(1.5, rel=0.1)
    assert all(check["ok"] for check in data["checks"])


def test_info_takes_ep_sizes(trace, invoke):
    data = json.loads(invoke("trace", "info", trace, "--ep", 4, "--ep", 16, "--json").out)
    assert list(data["overall"]["imbalance"]) == ["4", "16"]


def test_a_heat_map_is_drawn_and_json_stays_alone(trace, invoke, tmp_path):
    file = tmp_path / "heat.png"
    answer = invoke("trace", "info", trace, "--plot", file, "--json")
    json.loads(answer.out)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "heat.png" in answer.err


def test_bad_traces_and_options_are_one_line(trace, invoke, tmp_path):
    bad = tmp_path / "bad.parquet"
    whole = trace.read_bytes()
    for content in (b"", b"hello", whole[:-9], whole[: len(whole) // 2], whole[40:]):
        bad.write_bytes(content)
        assert_one_line_error(invoke("trace", "info", bad), "bad.parquet", "; ")
    assert_one_line_error(invoke("trace", "info", tmp_path / "no.parquet"), "no.parquet")
    assert_one_line_error(invoke("trace", "info", tmp_path), str(tmp_path))
    answer = invoke("trace", "info", trace, "--plot", tmp_path / "x.jpg")
    assert_one_line_error(answer, "--plot", "x.jpg", "x.png")
    for size in (0, -1, 33):
        answer = invoke("trace", "info", trace, "--ep", 8, "--ep", size)
        assert_one_line_error(
            answer, trace.name, "--ep: no such EP size", f"(got {size})", "1 to 32"
        )
    assert_one_line_error(invoke("trace", "info", trace, "--ep", "x"), "--ep", "'x'")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_heat_map_needs_a_file_name(name, trace, invoke):
    answer = invoke("trace", "info", trace, "--plot", name)
    assert_one_line_error(answer, "--plot: a heat map needs a file name", "heat.png")


def test_no_folder_is_made_for_a_heat_map(trace, invoke, tmp_path):
    answer = invoke("trace", "info", trace, "--plot", tmp_path / "new" / "heat.png")
    assert_one_line_error(answer, "--plot", f"there is no folder {tmp_path / 'new'}")
    assert not (tmp_path / "new").exists()


def test_fewer_experts_than_the_usual_ep_sizes(invoke, tmp_path):
    file = tmp_path / "few.parquet"
    synthesize(4, 2, 1, 3, 2, 16, imbalance=1.2, at_ranks=4).write(file)
    data = json.loads(invoke("trace", "info", file, "--json").out)
    assert list(data["overall"]["imbalance"]) == ["4"]
