"""The plots of one run, drawn from its directory alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ultraep_sim.report import plot_imbalance, plot_ranks, plot_time
from ultraep_sim.report.results import RunDirectory, read_run
from ultraep_sim.report.style import save, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS: dict[str, Callable[[RunDirectory], Figure]] = {
    "imbalance": plot_imbalance.figure,
    "rank_loads": plot_ranks.figure,
    "layer_time": plot_time.figure,
}


def write_plots(
    directory: str | Path, *, progress: Callable[[str, int, int], None] | None = None
) -> list[Path]:
    """Draw every plot of a run into its directory, as PNG and SVG.

    Parameters
    ----------
    directory : str or Path
        What ``run`` wrote.
    progress : callable, optional
        Called with (what, done, total).

    Returns
    -------
    list of Path
        The files written.
    """
    run = read_run(directory)
    written: list[Path] = []
    with style():
        for done, (name, draw) in enumerate(PLOTS.items()):
            if progress:
                progress("plots", done, len(PLOTS))
            written += save(draw(run), run.path / name)
    if progress:
        progress("plots", len(PLOTS), len(PLOTS))
    return written
