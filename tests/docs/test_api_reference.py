"""The API reference builds from docstrings, and what is wrong with one stops it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ultraep_sim as us

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "build_api.py"
GOOD = '"""A module."""\n\n__all__ = ["twice"]\n\n\n'
TWICE = '''def twice(x: int) -> int:
    """Double.

    Parameters
    ----------
    {documented} : int
        See `{target}`.
    """
    return 2 * x
'''


def python(*arguments: str | Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build in a process of its own: pdoc runs what modules guard with TYPE_CHECKING."""
    paths = os.pathsep.join(map(str, (path, ROOT, ROOT / "docs")))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_it_builds_without_a_warning_and_shows_every_public_name(tmp_path):
    done = python(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "ultraep_sim.html").read_text(encoding="utf-8")
    for name in us.__all__:
        assert f'<section id="{name}"' in page, name
    parts = {file.stem for file in (tmp_path / "ultraep_sim").glob("*.html")}
    with_names = {
        file.parent.name
        for file in (ROOT / "ultraep_sim").glob("*/__init__.py")
        if "__all__" in file.read_text(encoding="utf-8")
    }
    assert parts == with_names | {"errors"}


@pytest.mark.parametrize(
    ("source", "needle"),
    [
        (TWICE.format(documented="x", target="ultraep_sim.plan"), None),
        (TWICE.format(documented="y", target="ultraep_sim.plan"), "a parameter y"),
        (TWICE.format(documented="x", target="ultraep_sim.plann"), "ultraep_sim.plann"),
        ("def twice(x): return 2 * x\n", "has no docstring"),
        ("", "module 'toy' has no attribute 'twice'"),
        (
            TWICE.format(documented="x", target="ultraep_sim.plan").replace("x: int", "x: 'Gone'"),
            "pdoc warns",
        ),
    ],
)
def test_what_is_wrong_stops_it(source, needle, tmp_path):
    (tmp_path / "toy.py").write_text(GOOD + source, encoding="utf-8")
    build = f"from build_api import build, Path; build(Path({str(tmp_path / 'out')!r}), ['toy'])"
    done = python("-c", build, path=tmp_path)
    if needle is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert needle in done.stderr
