from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

BASE = """
name: tiny
model: {preset: qwen3-30b, layers: 2, num_experts: 16, top_k: 2}
rack: h100-nvl8
ep: {ranks: 4, slots_per_rank: 1}
workload:
  synthetic: {imbalance: 1.5, layers: 1, steps: 2}
  tokens_per_rank: 256
  sequence_length: 256
policies: [none, ultraep, ideal]
"""


@pytest.fixture
def write(tmp_path):
    """Write a sweep file beside a tiny scenario, and return its path."""
    (tmp_path / "base.yaml").write_text(BASE)

    def made(text: str, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return made
