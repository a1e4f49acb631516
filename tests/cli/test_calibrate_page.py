"""The page on calibration: its commands run, and its numbers are computed again."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from ultraep_sim.model.profile_file import read_profile

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "calibrate.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def refresh():
    file = ROOT / "docs" / "refresh_calibrate.py"
    spec = importlib.util.spec_from_file_location("refresh_calibrate", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_every_command_of_the_page_runs(invoke, tmp_path, monkeypatch):
    pytest.importorskip("torch")  # the page measures with hw_runtime, too
    from hw_runtime.__main__ import main as hw_runtime

    for name in ("docs/calibrate", "scenarios", "traces"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    answers = []
    for words in commands():
        if words[0] == "ultraep-sim":
            answers.append(invoke(*words[1:]))
            assert answers[-1].code == 0, (words, answers[-1].err)
        else:
            assert words[:3] == ["python", "-m", "hw_runtime"]
            assert hw_runtime(words[3:]) == 0
    assert len(answers) == 4
    assert "swapped_ranks" in answers[0].out
    assert read_profile("mine.yaml").name == "gb200-nvl72-synthetic-run"
    done = {one["disease"]: one["done"] for one in json.loads(answers[2].out)["findings"]}
    assert done["unit_seconds"] == done["swapped_ranks"] == "repaired"
    assert done["clock_jump"] == "excluded"
    assert "HOST, no GPU" in answers[3].out
    for stem in ("residuals", "bench"):
        assert Path(f"{stem}.png").stat().st_size > 5_000
        assert Path(f"{stem}.svg").is_file()


def test_the_log_is_what_its_script_draws(refresh):
    assert refresh.FILE.read_text(encoding="utf-8") == refresh.text()
    assert refresh.FILE.stat().st_size < 50_000
    assert refresh.text().startswith("# SYNTHETIC")


def test_the_numbers_of_the_page_are_computed_again(refresh):
    found = refresh.calibrated()
    assert refresh.findings_list(found) in PAGE
    number = r"\d+\.?\d*(?:e[+-]?\d+)?"
    page = re.search(r"begin: parameters -->(.*?)<!--", PAGE, re.DOTALL)[1]
    told = [float(x) for x in re.findall(number, page)]
    fresh = [float(x) for x in re.findall(number, refresh.parameters_table(found))]
    assert told == pytest.approx(fresh, rel=0.02)  # another scipy may stop elsewhere


def test_what_was_put_in_lies_in_the_printed_ranges(refresh):
    found = refresh.calibrated()
    for (kind, name), value in refresh.known().items():
        low, high = found.fits[kind].interval(name)
        assert low <= value <= high, (kind, name)
