"""Faults that can be put into the host fabric on purpose: what a proof must notice.

Each stands for a bug that the kernels could have.
"""

from __future__ import annotations

from ultraep_sim.errors import InputError

FAULTS = {
    "drop_flag": "one chunk arrives, but its ready flag is never raised",
    "stale_epoch": "a waiter takes the flag of the previous distribution for this one's",
    "swap_tile": "a tile is stored where the next one of its copy belongs, and the other way round",
    "skip_tail": "bytes after the last multiple of 16 of a copy are not stored",
    "missing_barrier": "slots are overwritten without waiting for those who read them",
    "reorder_add": "replica gradients are added in order of arrival",
}


def check_fault(fault: str | None) -> str | None:
    """Return a known fault or None.

    Raises
    ------
    InputError
        An unknown one.
    """
    if fault is not None and fault not in FAULTS:
        raise InputError(
            "unknown fault", place="inject", value=fault, remedy=f"give one of {', '.join(FAULTS)}"
        )
    return fault
