"""The suite `paper`: every published table, and every setting that has no published value yet.

What is simulated sees the published tables through `Tables.inputs` alone, where judged cells are
blank. The manifest lists the cells it read, and those on which constants of the code were fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..rows import Row
from ..tables import Cell, Tables, load_tables, parameter_of
from . import layer, planner, serving, training, transfers
from .runs import runs

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Paper:
    """What the suite found.

    Attributes
    ----------
    rows : list of dict
        Of the final model, see `ultraep_sim.validate.rows.make_row`.
    plain : list of dict
        Training by the plain law.
    manifest : list of dict
        ``table``, ``row`` (its keys), ``column``, ``parameter``: every cell that decided a number.
    """

    rows: list[Row]
    plain: list[Row]
    manifest: list[dict[str, str]]


def run(
    more: str | Path | None = None, *, fresh: bool = False, progress: Progress | None = None
) -> Paper:
    """Compare everything.

    Parameters
    ----------
    more : path, optional
        Folder of further published tables, see `load_tables`.
    fresh : bool
        Whether the serving runs are fitted and searched again (minutes).
    progress : callable, optional
        Called as ``progress(what, done, total)``.
    """
    told = progress or (lambda what, done, total: None)
    tables = load_tables(more)
    inputs = tables.inputs()
    found = runs(inputs)
    replayed = []
    for done, one in enumerate(found, start=1):
        replayed += training.replay_all([one], tables)
        told("training", done, len(found))
    training.simulate(replayed, inputs)  # reads all it may read before roles are told
    layer.simulate(replayed, inputs)
    searched = serving.fresh(inputs, progress) if fresh else None
    served, read_by_serving = serving.rows(tables, inputs, searched)
    read = {cell for cell in inputs.read if cell[0] != serving.TABLE} | read_by_serving
    read |= tables.constants()
    final, plain = training.rows(tables, read, replayed, inputs)
    final += layer.rows(tables, read, replayed, inputs)
    final += transfers.rows(tables, read)
    told("weight distribution", 1, 1)
    final += served
    final += planner.rows(tables, read, found, progress)
    return Paper(final, plain, manifest(read, tables))


def manifest(read: set[Cell], tables: Tables) -> list[dict[str, str]]:
    """List cells with what each decides."""
    return [
        {
            "table": cell[0],
            "row": cell[1],
            "column": cell[2],
            "parameter": parameter_of(cell, tables),
        }
        for cell in sorted(read)
    ]
