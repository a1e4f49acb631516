from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim import cli

from .command import Answer


@pytest.fixture
def invoke(capfd, monkeypatch):
    """Run a command in this process (much faster); what it writes is captured all the same."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = cli.invoke([str(argument) for argument in arguments])
        return Answer(code, *capfd.readouterr())

    return run


@pytest.fixture
def loads(tmp_path):
    """A good load matrix: 8 source ranks, 32 experts, unbalanced."""
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.full(32, 0.5))
    file = tmp_path / "loads.npy"
    np.save(file, rng.multinomial(4096, weights, size=8))
    return file
