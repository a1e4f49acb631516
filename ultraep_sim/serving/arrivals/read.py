"""Read recorded arrivals of any format."""

from __future__ import annotations

import itertools
from pathlib import Path

from ultraep_sim.errors import ArrivalsError
from ultraep_sim.serving.arrivals.azure import has_header, read_azure
from ultraep_sim.serving.arrivals.container import Arrivals
from ultraep_sim.serving.arrivals.lines import FORMATS, bad_line, numbered_lines
from ultraep_sim.serving.arrivals.mooncake import read_mooncake


def read_arrivals(path: str | Path) -> Arrivals:
    """Read a recording; its first line decides what it is.

    Parameters
    ----------
    path : str or Path
        Azure CSV or Mooncake JSONL.

    Returns
    -------
    Arrivals

    Raises
    ------
    ArrivalsError
        The file cannot be read, is neither, or is damaged; nothing is mended silently.
    """
    path = Path(path)
    lines = numbered_lines(path)
    first = next(lines, None)
    if first is None:
        raise ArrivalsError("the file is empty", file=path, place="line 1", remedy=FORMATS)
    number, text = first
    if text.lstrip().startswith("{"):
        return read_mooncake(itertools.chain([first], lines), path)
    if has_header(text):
        return read_azure(itertools.chain([first], lines), path)
    raise bad_line(path, number, "no known form of recorded arrivals", text, FORMATS)
