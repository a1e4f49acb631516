"""Print what the benchmarks are about: time a plan or a rate, and the ratio to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: Key of the extra info: its unit.
UNITS = {
    "us_per_solve": "us/plan",
    "plans_per_s": "plans/s",
    "records_per_s": "records/s",
    "events_per_s": "events/s",
    "requests_per_s": "requests/s",
    "points_per_s": "points/s",
    "us_per_call": "us/call",
}


class Measured(NamedTuple):
    """One benchmark, as it ran."""

    group: str
    name: str
    extra_info: Mapping[str, Any]


def summary(found: Iterable[Measured]) -> list[str]:
    """Lines of an aligned table; the baseline is the row that says so, else the first of a group.

    Times a plan are given over the baseline's (less is better), rates likewise (more is better).
    """
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for one in found:
        for key, unit in UNITS.items():
            if key in one.extra_info:
                rows = groups.setdefault(one.group, [])
                rows.append((one.name, float(one.extra_info[key]), unit))
    width = max((len(name) for rows in groups.values() for name, _, _ in rows), default=0)
    lines = []
    for group, rows in groups.items():
        lines.append(group)
        base = next((row for row in rows if "baseline" in row[0]), rows[0])
        for name, value, unit in rows:
            ratio = "" if len(rows) == 1 else f"  {value / base[1]:6.2f}x {short(base[0])}"
            lines.append(f"  {name:<{width}}  {value:12,.1f} {unit:<9}{ratio}".rstrip())
    return lines


def short(name: str) -> str:
    return name.partition(" (")[0].partition(" transcription")[0]


def pytest_terminal_summary(terminalreporter, config) -> None:
    session = getattr(config, "_benchmarksession", None)  # pytest-benchmark's; absent without it
    found = [
        Measured(bench.group or "", name_of(bench), bench.extra_info)
        for bench in getattr(session, "benchmarks", ())
        if bench
    ]
    lines = summary(found)
    if lines:
        terminalreporter.section("benchmarks: medians, and ratios to the baseline")
        for line in lines:
            terminalreporter.write_line(line)


def name_of(bench) -> str:
    """What the benchmark was parametrised with, else the test's name."""
    return str(bench.param) if bench.param else str(bench.name).removeprefix("test_")
