"""The figures in docs/silicon.md, computed anew where the whole tables are installed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ultraep_sim.calibrate.silicon.tables import find_tables
from ultraep_sim.errors import CalibrationError
from ultraep_sim.validate.silicon import run
from ultraep_sim.validate.silicon_skew import KNOWN_MISSES

PAGE = (Path(__file__).parents[2] / "docs" / "silicon.md").read_text()


def test_the_page_counts_the_known_misses():
    assert len(KNOWN_MISSES) == 4
    assert "Four sets are known misses" in PAGE


WORDS = {
    "Qwen3-235B": "qwen3-235b",
    "Qwen3-30B": "qwen3-30b",
    "DeepSeek-V3": "deepseek-v3-671b",
    "Kimi-K2": "kimi-k2",
    "Mixtral-8x22B": "mixtral-8x22b",
    "bf16": "bfloat16",
    "fp8": "fp8",
    "fp8 per block": "fp8_block",
    "nvfp4": "nvfp4",
}


def told_sets():
    """Sets of the page's table, with median and 90th percentile as they are told."""
    for line in re.findall(
        r"^\| (?:misses: )?([HBG][^|]*00[^|]*), ([^|,]*), ([^|]*) \|(.*)\|$", PAGE, re.M
    ):
        systems, model, precisions, errors = line
        median, p90 = (cell.replace("%", "").split("/") for cell in errors.split("|"))
        names = [
            (system.strip().lower(), WORDS[model], WORDS[precision.strip()])
            for system in systems.split("/")
            for precision in precisions.split("/")
        ]
        yield from zip(names, map(float, median), map(float, p90), strict=True)


def check_sets(sets):
    """Compare the page's table with the sets that were computed."""
    found = {
        (one["system"], one["model"], one["precision"]): one["residuals"]["held_out"]
        for one in sets
        if "min_latency" not in one["kernel"]
    }
    told = list(told_sets())
    assert len(told) >= 8
    for name, median, p90 in told:
        held = found[name]
        assert [round(100 * held[key], 1) for key in ("median", "p90")] == [median, p90], name


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
    for name in ("power_law_inside_band", "power_law_inside_half_band"):
        assert f"**{figures[name]:.1%}**".replace("%", " %") in PAGE, name
    for name in ("power_law_1.01_inside_band", "power_law_1.2_inside_band"):
        assert f"{figures[name]:.1%}".replace("%", " %") in PAGE, name
    assert f"{figures['power_law_inside_band_learnt']:.1%}".replace("%", " %") in PAGE
    assert f"factor of {figures['power_law_median_width']:.2f}" in PAGE
    assert f"{figures['power_law_rows']:,} rows" in PAGE
    drawn = [f"{figures[f'wide_ep_distinct_{name}']:.2f}" for name in ("median", "p10", "p90")]
    assert "drawn is {} in the median, {}-{} in four rows".format(*drawn) in " ".join(PAGE.split())
    tenths = sum(np.array(one["power_law"]["positions"]) for one in found["sets"])
    words = [f"{100 * share:.0f}" for share in tenths / tenths.sum()]
    assert f"{', '.join(words[:-1])} and {words[-1]} %" in re.sub(r"\s+", " ", PAGE)
    shares = [one["power_law"]["inside"] / one["power_law"]["rows"] for one in found["sets"]]
    assert f"{sum(s >= 0.85 for s in shares)} of {len(shares)} hold 85 %" in PAGE
    check_sets(found["sets"])
    predicted = {e["table"]: e for e in found["summary"] if e["role"] == "predicted"}
    for name, table in NAMES.items():
        entry = predicted.pop(table)
        assert _told(name) == f"{100 * entry['median']:.1f} % | {100 * entry['p90']:.0f} %", name
    assert set(predicted) == {"grouped_gemm", "grouped_gemm_power_law"}
