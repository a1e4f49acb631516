"""Recompute the README's table and picture, and the published tables of the pages in docs/.

`make readme` runs this; `tests/test_readme.py` fails where either says anything else.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from ultraep_sim.engine.run import RunResult, run_scenario
from ultraep_sim.report.plots import write_plots
from ultraep_sim.report.tables import finding, markdown_table
from ultraep_sim.scenario import load_scenario
from ultraep_sim.validate.published import markdown

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the published breakdown is set up among the tests
from tests.engine import anchors  # noqa: E402  (needs the line above)

README = ROOT / "README.md"
PLANNER = ROOT / "docs" / "planner.md"
ACCURACY = ROOT / "docs" / "accuracy.md"
SCENARIO = ROOT / "scenarios" / "quickstart.yaml"
PICTURE = ROOT / "docs" / "imbalance.png"
BEGIN, END = "<!-- begin: make readme -->", "<!-- end: make readme -->"


def block(result: RunResult) -> str:
    """Return what stands between the markers of the README for this result."""
    names = {spec.label: spec.name for spec in result.scenario.policies}
    notes = "; ".join(result.notes)
    return "\n\n".join(
        (
            BEGIN,
            markdown_table(result.rows),
            finding(result.rows, names),
            f"Workload: {result.workload_label}. {notes[:1].upper()}{notes[1:]}.",
            END,
        )
    )


def planner_block() -> str:
    """Return what stands between the markers of docs/planner.md."""
    return "\n\n".join((BEGIN, markdown(), END))


def accuracy_block() -> str:
    """Return what stands between the markers of docs/accuracy.md."""
    return "\n\n".join((BEGIN, anchors.markdown(), END))


def replaced(text: str, new: str) -> str:
    """Return a page with the block between its markers replaced."""
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"the markers {BEGIN} and {END} are not there")
    return head + new + tail


def main() -> None:
    """Run the quickstart and write README and picture."""
    result = run_scenario(load_scenario(SCENARIO))
    README.write_text(replaced(README.read_text(encoding="utf-8"), block(result)), encoding="utf-8")
    for page, new in ((PLANNER, planner_block()), (ACCURACY, accuracy_block())):
        page.write_text(replaced(page.read_text(encoding="utf-8"), new), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        write_plots(result.write(folder, ["make", "readme"]))
        shutil.copy(Path(folder) / "imbalance.png", PICTURE)
    print(f"wrote {README}, {PLANNER}, {ACCURACY} and {PICTURE}")


if __name__ == "__main__":
    main()
