"""Run the command as a person does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def ultraep_sim(*arguments: str | Path, cwd: Path | None = None) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "ultraep_sim.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def assert_one_line_error(answer: Answer, *needles: str) -> None:
    """Exit code 2, one line on stderr that holds every needle, nothing else anywhere."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.startswith("error: "), answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert "Traceback" not in answer.err
    for needle in needles:
        assert needle in answer.err, f"{needle!r} not in: {answer.err}"
