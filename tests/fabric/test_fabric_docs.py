"""What docs/fabric.md shows is what there is."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import yaml

from ultraep_sim.fabric.wiring import WIRINGS
from ultraep_sim.scenario.topology import TopologySpec

TEXT = (Path(__file__).parents[2] / "docs" / "fabric.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL).group(1)


def test_the_section_loads_and_the_presets_are_all_named():
    TopologySpec.model_validate(yaml.safe_load(block("yaml"))["topology"])
    assert all(f"`{name}`" in TEXT for name in WIRINGS)


def test_the_example_runs_and_its_plane_dies():
    out = io.StringIO()
    values = {}
    with contextlib.redirect_stdout(out):
        exec(compile(block("python"), "docs/fabric.md", "exec"), values)
    assert out.getvalue().strip().endswith("['restripe']")
    assert values["gpus"].shape == (40, 64)
    assert values["left"][:64].max() == 0.5
