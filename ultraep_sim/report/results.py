"""Read a run directory: ``summary.json`` and ``result.parquet``, nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ultraep_sim.errors import InputError

_REMEDY = "give a directory that `ultraep-sim run` wrote"


@dataclass(frozen=True)
class RunDirectory:
    """One run, read back.

    Attributes
    ----------
    path : Path
    summary : dict
        ``summary.json``.
    table : pyarrow.Table
        ``result.parquet``: one row a (policy, step, micro-batch, layer).
    """

    path: Path
    summary: dict[str, Any]
    table: pa.Table

    @property
    def labels(self) -> list[str]:
        """Policy labels in the order of the scenario."""
        return [str(row["policy"]) for row in self.summary["rows"]]

    @property
    def names(self) -> dict[str, str]:
        """Policy name by label: a label may be anything, the name says what the policy is."""
        result = {}
        for spec in self.summary["scenario"]["policies"]:
            mapping = {"name": spec} if isinstance(spec, str) else spec
            result[str(mapping.get("label") or mapping["name"])] = str(mapping["name"])
        return result

    def label_of(self, name: str) -> str | None:
        """Return the first label that runs policy ``name``, or None."""
        return next((label for label in self.labels if self.names.get(label) == name), None)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Which records the means of the summary count: those where every policy was warm."""
        first = self.labels[0]
        every = np.ones(len(self.column(first, "step")), dtype=bool)
        engine = self.summary["scenario"].get("engine", {})
        if engine.get("warmup") == "include":
            return every
        for label in self.labels:
            every &= self.warm(label)
        return every if every.any() else np.ones_like(every)

    def warm(self, label: str) -> NDArray[np.bool_]:
        """Return the records on which a policy has the history it asks for; all, if it never does.

        ``counted`` is where every policy is warm.
        """
        if "warm" not in self.table.column_names:
            return np.ones(len(self.column(label, "step")), dtype=bool)
        warm = self.column(label, "warm").astype(bool)
        return warm if warm.any() else np.ones_like(warm)

    @property
    def ideal_ms(self) -> float | None:
        """Layer time of the forced balance, whether it is among the rows or not."""
        row = self.summary["rows"][0]
        fraction = row.get("fraction_of_ideal")
        return None if fraction is None else float(row["layer_time_ms"]) * float(fraction)

    @cached_property
    def _row_labels(self) -> NDArray[np.str_]:
        return np.asarray(self.table["policy"].to_pylist(), dtype=str)

    def column(self, label: str, name: str) -> NDArray[Any]:
        """Return one column for one policy, in record order; lists as rows of a matrix."""
        rows = np.flatnonzero(self._row_labels == label)
        column = self.table[name].combine_chunks().take(pa.array(rows))
        if pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return np.asarray(flat).reshape(len(rows), -1)
        return np.asarray(column.to_numpy(zero_copy_only=False))


def read_run(directory: str | Path) -> RunDirectory:
    """Read what a run wrote.

    Raises
    ------
    InputError
        A file is missing or is not what a run writes.
    """
    directory = Path(directory)
    summary_file, table_file = directory / "summary.json", directory / "result.parquet"
    for file in (summary_file, table_file):
        if not file.is_file():
            raise InputError("this file of a run is missing", file=file, remedy=_REMEDY)
    try:
        summary = json.loads(summary_file.read_text(encoding="utf-8"))
        if not summary["rows"]:
            raise KeyError("rows")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("not the summary of a run", file=summary_file, remedy=_REMEDY) from error
    try:
        table = pq.read_table(table_file)
    except (pa.ArrowException, OSError) as error:
        raise InputError("not a result table", file=table_file, remedy=_REMEDY) from error
    return RunDirectory(directory, summary, table)
