"""Draw docs/calibrate/synthetic-run.csv: a SYNTHETIC log of 8 ranks with known bad rows.

``python docs/calibrate/make_log.py`` writes it again; `tests/cli/test_calibrate_page.py` compares.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ultraep_sim.calibrate.runlog.log import Log
from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log, to_csv

FILE = Path(__file__).with_name("synthetic-run.csv")
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
    "SYNTHETIC: drawn by docs/calibrate/make_log.py, measured nowhere; bad rows were put in: "
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


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE}, {FILE.stat().st_size} bytes")
