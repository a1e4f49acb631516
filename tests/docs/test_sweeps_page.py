"""The page on sweeps knows every key, and its examples are sweeps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ultraep_sim.sweep import PlotSpec, SweepSpec, expand
from ultraep_sim.sweep.axes import read_axis
from ultraep_sim.sweep.report_spec import ReportSpec
from ultraep_sim.sweep.search_spec import ParetoSpec, SmallestSpec
from ultraep_sim.sweep.spec import sweep_from_dict

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("spec", [SweepSpec, PlotSpec, ReportSpec, SmallestSpec, ParetoSpec])
def test_every_key_is_told(spec):
    missing = [key for key in spec.model_fields if not re.search(rf"`{key}\b[^`]*`", PAGE)]
    assert not missing


@pytest.mark.parametrize("text", EXAMPLES, ids=["grid", "pareto"])
def test_the_examples_are_sweeps(text):
    spec = sweep_from_dict(yaml.safe_load(text), ROOT / "example.yaml")
    points = expand(spec)
    for point in (points[0], points[-1]):
        point.scenario()


def test_the_axes_give_the_values_that_are_told():
    rows = dict(re.findall(r"^\| `([^`]+)` \| (\d[^:;|]*):", PAGE, re.M))
    assert len(rows) == 2
    for written, told in rows.items():
        ((name, given),) = yaml.safe_load(written).items()
        assert ", ".join(str(one.value) for one in read_axis(name, given)) == told
