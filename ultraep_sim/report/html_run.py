"""A run directory as a `LoadView`: what the run recorded, and its trace where that is at hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.engine.load_view import BEFORE, LoadView, LoadViewBuilder, Rows
from ultraep_sim.errors import InputError
from ultraep_sim.planning.layout import default_home
from ultraep_sim.report.results import RunDirectory
from ultraep_sim.trace import Record

_CHUNK = 2048


def run_keys(run: RunDirectory) -> NDArray[np.int64]:
    """Return step, micro-batch and layer of every record, int64 [records, 3].

    Raises
    ------
    InputError
        The policies of the table do not have the same records.
    """
    keys = [_keys(run, label) for label in run.labels]
    for label, own in zip(run.labels, keys, strict=True):
        if not np.array_equal(own, keys[0]):
            raise InputError(
                "the policies do not have the same records",
                file=run.path / "result.parquet",
                place=f"policy {label}",
                value=len(own),
                remedy="run the scenario again",
            )
    return keys[0]


def view_of_run(
    run: RunDirectory,
    keep: NDArray[np.bool_],
    records: Iterator[Record] | None,
    num_experts: int,
) -> LoadView:
    """Gather what a run recorded.

    Plans are not recorded, so experts are seen before balancing only.

    Parameters
    ----------
    run : RunDirectory
    keep : ndarray of bool, shape [records]
        Which of `run_keys` to show.
    records : iterator of Record or None
        What the run replayed, in the same order; None where its trace is not at hand.
    num_experts : int
        Used with ``records`` only.

    Raises
    ------
    InputError
        The records are not those of the run.
    """
    keys = run_keys(run)
    base = run.label_of("none")
    labels = [label for label in run.labels if label != base]
    ranks = run.column(run.labels[0], "rank_pairs").shape[1]
    home = None if records is None else default_home(ranks, num_experts)
    known = [base is not None or home is not None, *[True] * len(labels)]
    view = LoadViewBuilder(keys[keep], [BEFORE, *labels], known, ranks, home)
    before = run.column(run.labels[0], "imbalance_before")
    imbalance = np.stack([before, *[run.column(label, "imbalance") for label in labels]])
    pairs = [run.column(label, "rank_pairs") for label in labels]
    at_home = None if base is None else run.column(base, "rank_pairs")
    for start in range(0, len(keys), _CHUNK):
        rows = slice(start, start + _CHUNK)
        kept = keep[rows]
        loads = None if records is None else _loads(run, records, keys[rows])
        if at_home is not None:
            first = at_home[rows]
        elif loads is not None and home is not None:
            first = np.stack([np.bincount(home, one, ranks) for one in loads])
        else:
            first = np.zeros((len(kept), ranks))
        if not kept.any():
            continue
        counts = np.stack([first, *[part[rows] for part in pairs]]).astype(np.int64)
        view.add(
            Rows(
                imbalance[:, rows][:, kept],
                counts[:, kept],
                run.counted[rows][kept],
                None if loads is None else loads[kept],
                [[] for _ in known],
            )
        )
    return view.finish()


def _keys(run: RunDirectory, label: str) -> NDArray[np.int64]:
    columns = [run.column(label, name) for name in ("step", "micro_batch", "layer")]
    return np.stack(columns, axis=1).astype(np.int64)


def _loads(
    run: RunDirectory, records: Iterator[Record], keys: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the expert loads of the next records, which must be those of the keys."""
    found = []
    for wanted in keys.tolist():
        record = next(records, None)
        if record is None or [*record[:3]] != wanted:
            raise InputError(
                "the trace does not give the records of the run any more",
                file=run.path / "scenario.yaml",
                value=None if record is None else record[:3],
                remedy="run the scenario again",
            )
        found.append(record.loads.sum(axis=0, dtype=np.int64))
    return np.stack(found)
