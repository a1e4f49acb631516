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


#: How the page calls the other tables, by first words of a row.
NAMES = {
    "attention, bf16": "attention",
    "latent attention": "mla_attention",
    "*attention block": "mla_block",
    "dispatch (DeepEP": "dispatch",
    "combine": "combine",
    "NCCL all-to-all": "nccl_alltoall",
    "all-to-all of an NVL72": "rack_alltoall",
    "*its largest group": "rack_alltoall_larger_group",
    "wide-EP grouped GEMM": "wide_ep",
    "*the same rows* | *the law of balanced": "wide_ep_by_balanced",
    "wide-EP prefill": "wide_ep_context",
    "*the same rows* | *the law of another": "wide_ep_context_by_balanced",
}


def _told(name: str) -> str:
    """Median and 90th percentile as the page has them."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name}")]
    return "|".join(row.rsplit("|", 3)[1:3]).strip()


def test_the_page_has_a_row_for_every_other_table():
    assert all(re.fullmatch(r"[\d.]+ % \| \d+ %", _told(name)) for name in NAMES)


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
    predicted = {e["table"]: e for e in found["summary"] if e["role"] == "predicted"}
    for name, table in NAMES.items():
        entry = predicted.pop(table)
        assert _told(name) == f"{100 * entry['median']:.1f} % | {100 * entry['p90']:.0f} %", name
    assert set(predicted) == {"grouped_gemm", "grouped_gemm_power_law"}
