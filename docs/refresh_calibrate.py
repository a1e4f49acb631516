"""Draw docs/calibrate/synthetic-run.csv and write what its calibration finds into calibrate.md.

The log is SYNTHETIC: 8 ranks with known parameters and known bad rows. `tests/cli/
test_calibrate_page.py` draws and fits it again and compares.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ultraep_sim.calibrate.outcome import Outcome
from ultraep_sim.calibrate.runlog.context import Context
from ultraep_sim.calibrate.runlog.log import Log, read_log
from ultraep_sim.calibrate.runlog.profile import calibrate_log
from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log, to_csv
from ultraep_sim.model import get_model
from ultraep_sim.model.hardware import get_rack
from ultraep_sim.report.pages import replaced

DOCS = Path(__file__).resolve().parent
FILE = DOCS / "calibrate" / "synthetic-run.csv"
PAGE = DOCS / "calibrate.md"
SEED = 7
#: What the fit should find again (Qwen3-235B on 8 ranks of a GB200 rack, invented).
TRUTH = Truth(
    steps=40,
    layers=1,
    launch_us=75,
    compute_ns=31,
    floor_us=15,
    dispatch_ns=10.6,
    combine_ns=11.2,
    fixed_us=800,
    exposed_ns=18,
    stragglers=((5, 1.09),),
)
COMMENT = (
    "SYNTHETIC: drawn by docs/refresh_calibrate.py, measured nowhere; bad rows were put in: "
    "rank 2 in seconds (steps 10-13), ranks 1 and 6 swapped (steps 20-34), a clock jump, "
    "a row twice, an empty time"
)


def log_with_bad_rows() -> Log:
    """Return the log as it is written."""
    log = synthetic_log(TRUTH, SEED)
    ms, load = log.ms.copy(), log.load.copy()
    ms[(log.unit == 2) & (log.step >= 10) & (log.step < 14)] *= 1e-3
    for kind in np.unique(log.kind):
        stretch = (log.kind == kind) & (log.step >= 20) & (log.step < 35)
        one, other = (np.flatnonzero(stretch & (log.unit == rank)) for rank in (1, 6))
        load[one], load[other] = log.load[other], log.load[one]
    experts = np.flatnonzero(log.kind == "experts")
    ms[experts[17]] += 3600e3  # an hour
    ms[experts[95]] = np.nan
    return replace(log, ms=ms, load=load)


def text() -> str:
    """Return the file's content."""
    lines = to_csv(log_with_bad_rows(), COMMENT).splitlines()
    again = lines[2 + 700]
    return "\n".join([*lines, again]).replace("nan", "") + "\n"


def calibrated() -> Outcome:
    """Calibrate the file as the page's command does."""
    context = Context(get_rack("gb200-nvl72"), get_model("qwen3-235b"), TRUTH.ranks)
    return calibrate_log(read_log(FILE), context)


def known() -> dict[tuple[str, str], float]:
    """Parameters that were put in, by fit and name."""
    return {
        ("experts", "fixed_us"): TRUTH.launch_us,
        ("experts", "pair_ns"): TRUTH.compute_ns,
        ("experts", "factor_rank_5"): TRUTH.factor(5),
        ("dispatch", "fixed_us"): TRUTH.floor_us,
        ("dispatch", "pair_ns"): TRUTH.dispatch_ns,
        ("combine", "fixed_us"): TRUTH.floor_us,
        ("combine", "pair_ns"): TRUTH.combine_ns,
        ("layer", "fixed_us"): TRUTH.fixed_us,
        ("layer", "exposed_ns"): TRUTH.exposed_ns,
    }


def parameters_table(found: Outcome) -> str:
    """Return what was put in beside what was found."""
    lines = ["| fit | parameter | put in | found | 95 % range |", "|---|---|---:|---:|---:|"]
    for (kind, name), value in known().items():
        fit = found.fits[kind]
        low, high = fit.interval(name)
        cells = f"{value:.3g} | {fit.values[name]:.3g} | {low:.3g} to {high:.3g}"
        lines.append(f"| {kind} | `{name}` | {cells} |")
    return "\n".join(lines)


def findings_list(found: Outcome) -> str:
    """Return the bad rows as the command prints them."""
    return "\n".join(["```text", *(str(one) for one in found.findings), "```"])


def refreshed(page: str, found: Outcome) -> str:
    """Return the page with its numbers computed anew."""
    page = replaced(page, "parameters", parameters_table(found))
    return replaced(page, "findings", findings_list(found))


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8"), calibrated()), encoding="utf-8")
    print(f"wrote {FILE.name}, {FILE.stat().st_size} bytes, and {PAGE.name}")
