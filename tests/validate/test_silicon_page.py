"""The figures in docs/silicon.md, computed anew where the whole tables are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ultraep_sim.calibrate.silicon.tables import find_tables
from ultraep_sim.errors import CalibrationError
from ultraep_sim.validate.silicon import KNOWN_MISSES, run

PAGE = (Path(__file__).parents[2] / "docs" / "silicon.md").read_text()


def test_the_page_counts_the_known_misses():
    assert len(KNOWN_MISSES) == 6
    assert "Six sets are known misses" in PAGE


@pytest.mark.slow
def test_the_page_tells_what_the_suite_finds():
    try:
        find_tables()
    except CalibrationError as error:
        pytest.skip(str(error))
    found = run()
    figures = found["figures"]
    assert found["broken"] == []
    told = re.search(r"Of (\d+) sets \*\*(\d+)\*\*", PAGE)
    assert told is not None
    assert [int(n) for n in told.groups()] == [
        figures["grouped_gemm_sets"],
        figures["grouped_gemm_good_sets"],
    ]
    assert f"**{figures['power_law_inside_band']:.1%}**".replace("%", " %") in PAGE
    assert f"**{figures['power_law_inside_band_plain']:.1%}**".replace("%", " %") in PAGE
    assert f"{figures['power_law_rows']:,} rows" in PAGE
