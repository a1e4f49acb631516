"""Where output goes: data on stdout, everything said about it on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ultraep_sim.commands import interrupt
from ultraep_sim.errors import InputError

Report = Callable[[str, int, int], None]


def print_json(data: Any) -> None:
    """Write one JSON document to stdout; numbers that JSON cannot hold are an error."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_renderable(*items: RenderableType) -> None:
    """Print to stdout, whole: numbers are never cut, so a narrow terminal sees long lines."""
    console = Console(highlight=False, markup=False)
    roomy = console.options.update(max_width=1000)
    needed = liked = 0
    for table in (item for item in items if isinstance(item, Table)):
        measure = Measurement.get(console, roomy, table)
        rigid = all(column.no_wrap for column in table.columns)
        needed = max(needed, measure.maximum if rigid else measure.minimum)
        liked = max(liked, min(110, measure.maximum))
    # Where nothing tells the width (a pipe, a log), take what the tables like, within reason.
    width = max(console.width, needed, 0 if console.is_terminal else liked)
    console = Console(highlight=False, markup=False, width=width)
    for item in items:
        console.print(item)
    sys.stdout.flush()


def given_path(text: str, place: str, remedy: str) -> Path:
    """Return the path a person typed; an empty one (an unset variable) must not mean ``.``.

    Raises
    ------
    InputError
        It is empty; ``place`` and ``remedy`` go into the message.
    """
    if not text:
        raise InputError("an empty path", place=place, value=text, remedy=remedy)
    return Path(text)


def note(text: str) -> None:
    """Say something on stderr, one line."""
    sys.stderr.write(text + "\n")


class _Rate(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.3g}/s" if speed < 10 else f"{speed:,.0f}/s")


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Yield a callback that shows progress on stderr where a person watches, else nothing.

    It is called often during long work, so it also is where a lost Ctrl-C is found.
    """
    if not sys.stderr.isatty():
        yield lambda what, done, total: interrupt.check()
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            interrupt.check()
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report
