"""Invariant 10: numbers printed in the README are recomputed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import ultraep_sim as us
from ultraep_sim.validate.published import published_rows

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def refresh():
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quickstart_gives_exactly_the_table_of_the_readme(refresh):
    from ultraep_sim.engine.run import run_scenario
    from ultraep_sim.scenario import load_scenario

    result = run_scenario(load_scenario(refresh.SCENARIO))
    assert not result.trace_meta["synthetic"]
    assert refresh.block(result) in README, "run: make readme"
    rows = {row["policy"]: row for row in result.rows}
    assert rows["none"]["mean_rank_imbalance"] > 1.3
    assert rows["ultraep"]["mean_rank_imbalance"] <= 1.02


def test_the_planner_page_shows_what_is_computed(refresh):
    assert refresh.planner_block() in refresh.PLANNER.read_text(encoding="utf-8"), (
        "run: make readme"
    )


def test_the_accuracy_page_shows_what_is_computed(refresh):
    page = refresh.ACCURACY.read_text(encoding="utf-8")
    assert refresh.accuracy_block() in page, "run: make readme"
    misses = {row.what: f"{-100 * row.error:.0f} %" for row in refresh.anchors.breakdown()}
    for part in ("forward token_all_to_all none", "forward token_all_to_all ultraep"):
        assert misses[part] in README, part
    ours, published = (
        re.search(rf"reaches .*?(\d+) % (?:of `ideal` )?as {kind}", page)[1]
        for kind in ("simulated", "published")
    )
    prose = " ".join(README.split())
    assert f"reaches {ours} % of `ideal` forward where {published} % is published" in prose


def test_our_planner_table_stays_close_to_the_published_one():
    """The rows whose loads are described (README) within 15 %; the others are explained in docs."""
    rows = list(published_rows())
    assert len(rows) == 20
    for row in rows:
        if row["published"] is not None and row["case"].startswith("256"):
            assert row["simulated"] == pytest.approx(row["published"], rel=0.15), row


def test_the_picture_and_every_linked_file_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert "docs/imbalance.png" in links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from ultraep_sim.cli import app

    known = set(get_command(app).commands)
    used = re.findall(r"bin/ultraep-sim ([a-z]+)", README)
    assert used
    assert set(used) <= known
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_scenarios_of_the_readme_exist():
    for name in re.findall(r"scenarios/[a-z0-9.-]+\.yaml", README):
        assert (ROOT / name).is_file(), name


def test_the_python_of_the_readme_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert "imbalance 2.667 -> 1.033" in capsys.readouterr().out


def test_the_policy_of_the_contributing_guide_works():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    names = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    rng = np.random.default_rng(1)
    for slots, domain in ((0, 8), (1, 8), (2, 2), (1, 1)):
        layout = us.EPLayout(8, 32, slots, domain)
        loads = rng.multinomial(4096, rng.dirichlet(np.full(32, 0.3)), size=8)
        plan = us.plan(loads, layout, names["Hottest"](layout))
        plan.validate(loads)
        assert plan.num_replicas == (1 if slots and domain > 1 else 0)
