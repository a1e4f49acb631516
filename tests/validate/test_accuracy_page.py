"""Invariant 10: what docs/accuracy.md prints is recomputed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ultraep_sim.validate import paper, training

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def refresh():
    path = ROOT / "docs" / "refresh_accuracy.py"
    spec = importlib.util.spec_from_file_location("refresh_accuracy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared():
    return training.prepare()


@pytest.fixture(scope="module")
def found():
    return paper.run()


@pytest.mark.slow
def test_the_tables_of_the_paper_suite_are_computed(refresh, page, found):
    for name in ("summary", "misses", "manifest"):
        block = getattr(refresh, f"{name}_block")(found)
        assert block in page, f"{name}: run python docs/refresh_accuracy.py"


@pytest.mark.slow
def test_the_readme_tells_the_same_errors(refresh, found):
    readme = refresh.README.read_text(encoding="utf-8")
    assert refresh.readme_block(found) in readme, "run: python docs/refresh_accuracy.py"
    (line,) = [row for row in refresh.readme_block(found).splitlines() if row.startswith("| all")]
    assert line.split(" | ")[2] == "4.3%", "the pages speak of differences below 5 %"


@pytest.fixture(scope="module")
def page(refresh):
    return refresh.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_layer_table_is_computed(refresh, page, prepared):
    assert refresh.layer_block(prepared) in page, "run: python docs/refresh_accuracy.py"


@pytest.mark.slow
def test_the_training_table_is_computed(refresh, page, prepared):
    assert refresh.training_block(prepared) in page, "run: python docs/refresh_accuracy.py"


@pytest.mark.slow
def test_what_the_page_says_of_the_training_table_holds(prepared):
    for one in prepared:
        for policy, loads in one.loads.items():
            told = one.case.published.get(policy)
            if policy in ("none", "eplb") and told is not None:
                assert loads.imbalance == pytest.approx(told.imbalance, rel=0.007)
    found = {line["column"]: line for line in training.accuracy(training.table(prepared))}
    assert all(line["rows"] == 10 for line in found.values())
    assert 0.08 < found["plain_published"]["median_error"] < 0.09
    assert found["mechanisms"]["median_error"] < 0.081
    for name in ("uneven", "uneven_published", "left_out"):
        assert found[name]["median_error"] < 0.05
        assert abs(found[name]["worst_error"]) < 0.15


@pytest.mark.slow
def test_the_waiting_and_the_ideal_tables_are_computed(refresh, page, prepared):
    assert refresh.waiting_block(prepared) in page, "run: python docs/refresh_accuracy.py"
    assert refresh.ideal_block() in page, "run: python docs/refresh_accuracy.py"


@pytest.mark.slow
def test_the_transfer_table_is_computed(refresh, page):
    assert refresh.transfers_block() in page, "run: python docs/refresh_accuracy.py"
