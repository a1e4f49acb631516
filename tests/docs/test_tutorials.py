"""Every command of the tutorials runs, in order, and prints what the page quotes.

In a page, ``sh`` blocks are run, one shell a block, in one folder with the repository's files. A
``text`` block is quoted from what the ``sh`` block before it printed: each of its lines must be
there, an ellipsis standing for anything, spaces and line ends for each other, rules left aside.
Blocks of other languages are only read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_RULES = str.maketrans("", "", "─")


def blocks(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def absent(quoted: str, printed: str) -> list[str]:
    """Return the quoted lines that were not printed."""
    flat = " ".join(printed.translate(_RULES).split())
    lines = [" ".join(line.translate(_RULES).split()) for line in quoted.splitlines()]
    return [line for line in lines if not re.search(_pattern(line), flat)]


def _pattern(line: str) -> str:
    return ".*?".join(re.escape(part.strip()) for part in line.split("…"))


@pytest.fixture
def folder(tmp_path):
    """Return a folder that looks like the repository, with the commands on its path."""
    for name in ("scenarios", "traces", "tests", "docs", "hw_runtime"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, what in (("python", ""), ("ultraep-sim", " -m ultraep_sim.cli")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{what} "$@"\n')
        (commands / name).chmod(0o755)
    return tmp_path


def run(script: str, folder: Path) -> tuple[int, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "COLUMNS": "100",
            "NO_COLOR": "1",
        },
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_run_and_print_what_is_quoted(page, folder):
    printed = None
    for language, text in blocks(page):
        if language == "sh":
            code, printed = run(text, folder)
            assert code == 0, f"{text}\n{printed}"
        elif language == "text":
            assert printed is not None, "a quotation before any command"
            assert not absent(text, printed), f"{absent(text, printed)} not in:\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_commands_and_quotations_and_no_dead_link(page):
    languages = {language for language, _ in blocks(page)}
    assert {"sh", "text"} <= languages
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page))
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_three_jobs_have_a_page():
    assert {page.stem for page in PAGES} == {"calibrate", "replay", "sweep"}


def test_a_quotation_that_was_not_printed_is_found():
    printed = " policy   ms \n ─────── \n none   3.25 \nwrote it\n"
    assert absent("policy ms\n──────\nnone 3.25\n…wrote it", printed) == []
    assert absent("none 3.26", printed) == ["none 3.26"]
    assert absent("none … it\nwrote … not", printed) == ["wrote … not"]


def test_a_command_that_fails_is_found(folder):
    assert run("ultraep-sim --version | cat", folder)[0] == 0
    assert run("false | cat\necho went on", folder) == (1, "")
