"""The figures in docs/silicon.md, computed anew where the whole tables are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ultraep_sim.calibrate.silicon.tables import find_tables
from ultraep_sim.errors import CalibrationError
from ultraep_sim.validate.silicon import run
from ultraep_sim.validate.silicon_skew import KNOWN_MISSES

PAGE = (Path(__file__).parents[2] / "docs" / "silicon.md").read_text()


def test_the_page_counts_the_known_misses():
    assert len(KNOWN_MISSES) == 4
    assert "Four sets are known misses" in PAGE


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
    for name in ("power_law_inside_band", "power_law_inside_half_band"):
        assert f"**{figures[name]:.1%}**".replace("%", " %") in PAGE, name
    for name in ("power_law_1.01_inside_band", "power_law_1.2_inside_band"):
        assert f"{figures[name]:.1%}".replace("%", " %") in PAGE, name
    assert f"{figures['power_law_inside_band_learnt']:.1%}".replace("%", " %") in PAGE
    assert f"factor of {figures['power_law_median_width']:.2f}" in PAGE
    assert f"{figures['power_law_rows']:,} rows" in PAGE
