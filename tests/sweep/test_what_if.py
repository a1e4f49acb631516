"""Invariant 10: what docs/what-if.md prints is recomputed, some points of every sweep."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ultraep_sim.sweep import expand, load_sweep, run_point

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = ("pipeline-depth", "slots", "domain-size", "link-bandwidth", "slow-gpu", "dead-plane")

#: Points that are run again: those that the answers rest on most.
POINTS = {
    "pipeline-depth": (4, 23),
    "slots": (1,),
    "domain-size": (5,),
    "link-bandwidth": (2,),
    "slow-gpu": (1,),
    "dead-plane": (1,),
}


@pytest.fixture(scope="module")
def refresh():
    path = ROOT / "docs" / "refresh_what_if.py"
    spec = importlib.util.spec_from_file_location("refresh_what_if", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SWEEPS)
def test_the_page_says_what_its_rows_say(refresh, name):
    assert set(refresh.ANSWERS) == set(SWEEPS)
    page = refresh.PAGE.read_text(encoding="utf-8")
    assert refresh.block(name) in page, "run: python docs/refresh_what_if.py"
    assert (refresh.FOLDER / f"{name}.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_the_rows_are_what_a_run_gives(refresh, name):
    spec = load_sweep(refresh.SWEEPS / f"{name}.yaml")
    points = expand(spec)
    stored = refresh.stored(name)
    each = len(stored) // len(points)
    for index in POINTS[name]:
        found = refresh.kept(spec, run_point(points[index]))
        told = stored[index * each : (index + 1) * each]
        assert len(found) == len(told)
        for row, line in zip(found, told, strict=True):
            for column, value in row.items():
                if isinstance(value, float):
                    assert float(line[column]) == pytest.approx(value, rel=1e-5), column
                else:
                    assert line[column] == str(value), column


@pytest.mark.slow
def test_the_traces_of_one_hot_layer_are_the_drawn_ones(tmp_path):
    path = ROOT / "scenarios" / "what-if" / "make_traces.py"
    spec = importlib.util.spec_from_file_location("make_traces", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for mean in module.MEANS:
        written = module.one_hot_layer(mean).write(tmp_path / "t.parquet")
        kept = path.parent / f"one-hot-layer-{mean}.parquet"
        assert written.read_bytes() == kept.read_bytes()
