from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from ultraep_sim.report.results import read_run
from ultraep_sim.report.style import style

from .fake_run import write_fake_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_fake_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def drawn():
    """Draw a figure in the project's style and close it afterwards."""
    made = []

    def draw(module, run):
        with style():
            made.append(module.figure(run))
            made[-1].canvas.draw()
        return made[-1]

    yield draw
    for figure in made:
        plt.close(figure)
