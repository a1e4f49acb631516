from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from .tiny import TINY


@pytest.fixture
def write(tmp_path):
    """Write a sweep file beside a tiny scenario, and return its path."""
    (tmp_path / "base.yaml").write_text(TINY)

    def made(text: str, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return made
