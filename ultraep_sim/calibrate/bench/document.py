"""Read the measurement document of ``python -m hw_runtime bench``, as far as it is fitted.

The writer checks a document in full before anybody gets it; here only what is used is checked, so
that a newer writer may add to it. GPU machines need not have this package whole, nor this one
torch, so the reader of `hw_runtime` is not imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultraep_sim.calibrate.fit import Rows
from ultraep_sim.errors import CalibrationError

SCHEMA = "hw_runtime.bench/2"
_MAX_BYTES = 64 << 20
_FOUND = {"kind", "time", "place", "TFLOPs", "GBps", "share_of_ceiling", "imbalance",
          "imbalance_before", "imbalance_after"}  # fmt: skip
_AGAIN = "give a file that `python -m hw_runtime bench --out` wrote"


@dataclass(frozen=True)
class Document:
    """Rows by kind, and what they were measured on.

    Parameters
    ----------
    device, date, fabric : str
    is_gpu : bool
        Whether any number may be taken for a GPU's.
    sms : int
    rows : tuple of mapping
        As they stand in the file, each with its ``kind`` and its ``place``.
    source : (str, str)
        Name and SHA-256 of the file.
    """

    device: str
    date: str
    fabric: str
    is_gpu: bool
    sms: int
    rows: tuple[Mapping[str, Any], ...]
    source: tuple[str, str]

    @property
    def title(self) -> str:
        """Say what was measured on, a CPU as such."""
        if self.is_gpu:
            return f"{self.device}, {self.fabric} fabric, {self.date}"
        return f"HOST, no GPU: {self.device}, {self.fabric} fabric, {self.date}"

    def of(self, kind: str, **wanted: Any) -> list[Mapping[str, Any]]:
        """Rows of a kind with certain values."""
        return [
            row
            for row in self.rows
            if row["kind"] == kind and all(row.get(k) == v for k, v in wanted.items())
        ]

    def timed(self, rows: list[Mapping[str, Any]], *names: str) -> Rows:
        """Return rows for a fit: their medians, and columns of numbers.

        Raises
        ------
        CalibrationError
            A number is missing or not a positive one.
        """
        columns = {name: np.array([self._number(row, name) for row in rows]) for name in names}
        seconds = np.array([self._number(row["time"], "median_us", row) for row in rows]) * 1e-6
        return Rows(columns, seconds, tuple(_key(row) for row in rows), (self.source,))

    def expert_pairs(self, row: Mapping[str, Any]) -> list[int]:
        """Return the pairs of every expert of a grouped product.

        Raises
        ------
        CalibrationError
            They are no counts, of another number of experts, or all zero.
        """
        pairs: Any = row.get("expert_pairs")
        if not _are_counts(pairs) or len(pairs) != row.get("experts") or not any(pairs):
            raise self._error(row, "expert_pairs", "not the pairs of every expert", pairs)
        return list(pairs)

    def calls(self, row: Mapping[str, Any]) -> list[list[list[int]]]:
        """Return the pairs of a block by call, rank and instance: mains, then slots if any.

        Raises
        ------
        CalibrationError
            They are no counts, of another number of ranks, or fewer than the slots.
        """
        held, slots = row.get("instance_pairs"), row.get("slots")
        if type(slots) is not int or slots < 0:
            raise self._error(row, "slots", "not a number of slots", slots)
        lists = held if isinstance(held, list) and len(held) == row.get("ranks") else []
        if not lists or not all(_are_counts(one) and len(one) > slots for one in lists):
            raise self._error(row, "instance_pairs", "not the pairs of every instance", held)
        mains = [one[: len(one) - slots] for one in lists]
        return [mains, [one[len(one) - slots :] for one in lists]] if slots else [mains]

    def rank_seconds(self, row: Mapping[str, Any]) -> list[float]:
        """Return the time of every rank of a block.

        Raises
        ------
        CalibrationError
            They are of another number of ranks, or not times.
        """
        found = row.get("rank_us")
        lists = isinstance(found, list) and len(found) == row.get("ranks")
        if not lists or not all(_is_number(us) and us >= 0 for us in found or ()):
            raise self._error(row, "rank_us", "not a time of every rank", found)
        return [float(us) * 1e-6 for us in found or ()]

    def _error(self, row: Mapping[str, Any], name: str, what: str, value: Any) -> CalibrationError:
        return CalibrationError(
            what, file=self.source[0], place=f"{row['place']}.{name}", value=value, remedy=_AGAIN
        )

    def _number(self, values: Any, name: str, row: Mapping[str, Any] | None = None) -> float:
        place = f"{(row or values)['place']}.{name}"
        value = values.get(name) if isinstance(values, Mapping) else None
        if not _is_number(value) or value <= 0:  # type: ignore[operator]  # it is a number
            raise CalibrationError(
                "not a positive number",
                file=self.source[0],
                place=place,
                value=value,
                remedy=_AGAIN,
            )
        return float(value)  # type: ignore[arg-type]  # checked above


def _key(row: Mapping[str, Any]) -> str:
    """Name what was timed, not what was found: a hash of it decides which rows are held out."""
    found = _FOUND | ({"replicas"} if row["kind"] == "planner" else set())
    facts = (f"{k} {v}" for k, v in row.items() if k not in found and not isinstance(v, list))
    return "/".join(facts)


def read_document(path: str | Path) -> Document:
    """Read a measurement document.

    Raises
    ------
    CalibrationError
        The file is missing, too large, not such a document, or lacks what says where it is from.
    """
    file = Path(path)
    try:
        content = file.read_bytes() if file.stat().st_size <= _MAX_BYTES else b""
        document = json.loads(content)
    except OSError as error:
        raise CalibrationError(
            error.strerror or str(error), file=file, remedy="check the path"
        ) from None
    except ValueError as error:
        raise CalibrationError(f"no JSON document: {error}", file=file, remedy=_AGAIN) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise CalibrationError(
            f"expected schema {SCHEMA}", file=file, place="schema", value=found, remedy=_AGAIN
        )
    machine, rows, fabric = (document.get(k) for k in ("machine", "rows", "fabric"))
    if not isinstance(machine, dict) or machine.get("kind") not in ("gpu", "cpu"):
        raise CalibrationError(
            "no machine, or of no kind", file=file, place="machine", value=machine, remedy=_AGAIN
        )
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows) or not rows:
        raise CalibrationError("no timed rows", file=file, place="rows", remedy=_AGAIN)
    sms = machine.get("sms")
    return Document(
        device=str(machine.get("device")),
        date=str(document.get("date")),
        fabric=str(fabric),
        is_gpu=machine["kind"] == "gpu" and fabric != "host",
        sms=sms if isinstance(sms, int) and sms > 0 else 1,
        rows=tuple({**row, "place": f"rows[{at}]"} for at, row in enumerate(rows)),
        source=(file.name, hashlib.sha256(content).hexdigest()),
    )


def _is_number(value: Any) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return good and math.isfinite(value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and "kind" in row and isinstance(row.get("time"), dict)
