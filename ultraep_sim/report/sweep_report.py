"""Write the report of a sweep: page, figures on paper, and the data behind every figure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..sweep.report_spec import ReportSpec
from ..sweep.result import to_csv
from .html_sweep import sweep_page
from .sweep_figures import curve_rows, pareto_rows, regret_rows, winner_rows
from .sweep_findings import advice
from .sweep_table import SweepTable
from .sweep_text import findings, use

#: CSV files of ``data/``, each for all metrics.
_DATA: dict[str, Callable[[SweepTable, str], list[dict[str, Any]]]] = {
    "winners": winner_rows,
    "curves": curve_rows,
    "regret": regret_rows,
    "pareto": pareto_rows,
}


def write_report(
    rows: Sequence[Mapping[str, Any]],
    axes: Sequence[str],
    directory: str | Path,
    *,
    question: str = "",
    spec: ReportSpec | None = None,
    notes: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Write ``report.html``, ``findings.md``, figures as PNG and SVG, and ``data/*.csv``.

    Parameters
    ----------
    rows : sequence of mapping
        One a point and policy, as `ultraep_sim.sweep.SweepResult.rows`; with ``seed`` and
        ``draw`` where there are several. Values that are missing or NaN count as not there.
    axes : sequence of str
        Axis columns.
    directory : str or Path
        Made if it does not exist.
    question : str
        What the sweep was to answer.
    spec : ReportSpec, optional
    notes : sequence of str
        What a reader must know.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        There are no rows, or a column of the spec is not there.
    OSError
        A file cannot be written.
    """
    from .plot_findings import FIGURES
    from .style import save, style

    if not rows:
        raise InputError("there are no rows to report", remedy="run the sweep first")
    table = SweepTable(rows, axes, spec)
    title = table.aim.spec.title or question or "Sweep"
    directory = Path(directory)
    (directory / "data").mkdir(parents=True, exist_ok=True)
    steps = 2 + len(FIGURES)
    written = _write_data(table, directory / "data")
    _tell(progress, 1, steps)
    found = advice(table)
    page = directory / "report.html"
    page.write_text(sweep_page(table, title, found, notes), encoding="utf-8")
    text = directory / "findings.md"
    text.write_text(_markdown(table, title, use(table, found), notes), encoding="utf-8")
    written = [page, text, *written]
    _tell(progress, 2, steps)
    with style():
        for done, (name, draw) in enumerate(FIGURES.items(), start=3):
            for suffix in (".png", ".svg"):  # none of an earlier sweep stays beside this one
                with contextlib.suppress(FileNotFoundError):
                    (directory / f"{name}{suffix}").unlink()
            figure = draw(table)
            if figure is not None:
                written += save(figure, directory / name)
            _tell(progress, done, steps)
    return written


def _tell(progress: Callable[[str, int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress("report", done, total)


def _write_data(table: SweepTable, directory: Path) -> list[Path]:
    files = []
    for name, make in _DATA.items():
        file = directory / f"{name}.csv"
        found = [row for metric in table.aim.metrics for row in make(table, metric)]
        file.write_text(to_csv(found), encoding="utf-8")
        files.append(file)
    file = directory / "rows.csv"
    file.write_text(to_csv(table.rows), encoding="utf-8")
    return [*files, file]


def _markdown(table: SweepTable, title: str, advised: str, notes: Sequence[str]) -> str:
    lines = [f"# {title}", "", *(f"- {text}" for text in findings(table)), ""]
    if notes:
        lines += ["Notes:", "", *(f"- {text}" for text in notes), ""]
    return "\n".join([*lines, f"**{advised}**", ""])
