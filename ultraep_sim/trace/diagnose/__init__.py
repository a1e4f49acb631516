"""What is wrong with a dump, by the name of the disease; and repairs, each by its name.

Nothing is repaired unless it is asked for, and what was repaired stands in the metadata.
"""

from __future__ import annotations

from ..formats.dump import Dump
from .findings import STOPS, TELLS, WARNS, Finding
from .order import check_gaps, check_order, check_phases
from .repair import REPAIRS, repair
from .sharing import check_sharing
from .sums import check_sums, check_told
from .survey import Survey, survey

__all__ = [
    "REPAIRS",
    "STOPS",
    "TELLS",
    "WARNS",
    "Finding",
    "Survey",
    "diagnose",
    "judge",
    "repair",
    "survey",
]


def judge(seen: Survey) -> list[Finding]:
    """Run every check on what a survey saw; see `diagnose`."""
    found = check_order(seen)
    if any(finding.name == "empty" for finding in found):
        return found
    return [
        *found,
        *check_gaps(seen),
        *check_sums(seen),
        *check_sharing(seen),
        *check_phases(seen),
        *check_told(seen),
    ]


def diagnose(dump: Dump) -> list[Finding]:
    """Read a dump once and name what is wrong with it.

    Parameters
    ----------
    dump : Dump

    Returns
    -------
    list of Finding
        Empty for a healthy dump.

    Raises
    ------
    TraceError
        If its file is damaged.
    """
    return judge(survey(dump))
