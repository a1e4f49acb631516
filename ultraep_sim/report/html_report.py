"""Write the load viewer: what is said about the data, and a file that keeps its bound."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraep_sim.errors import InputError
from ultraep_sim.report import style
from ultraep_sim.report.html_data import Level, levels, overview, summary
from ultraep_sim.report.html_page import assemble, items, table

if TYPE_CHECKING:
    from ultraep_sim.engine.load_view import LoadView


@dataclass(frozen=True)
class About:
    """What a page says about its data.

    Attributes
    ----------
    source : str
        Name of the trace or run.
    kind : str
        ``recorded`` or ``SYNTHETIC``.
    workload : str
        What the loads are and what was done to them, one line.
    digest : str
        sha256 of the trace, hex.
    names : dict of str to str
        Policy by label of a contender.
    notes : list of str
        What a reader must know.
    """

    source: str
    kind: str
    workload: str
    digest: str
    names: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Written:
    """What became of it: the file, its bytes, and what it holds of the records."""

    file: Path
    bytes: int
    bound: int
    summary: list[dict[str, Any]]
    kept: list[str]


def write_report(view: LoadView, about: About, path: str | Path, max_bytes: int) -> Written:
    """Write a page of at most ``max_bytes``.

    Raises
    ------
    InputError
        The bound is too small even for the overview.
    OSError
        The file cannot be written.
    """
    first, widths = overview(view)
    text = first.text()
    # The page without single loads is measured as it will stand, with a little room for the
    # numbers in its sentences.
    empty = _page(view, about, text, first.index, widths, (Level(1, 0, 0, [], []),) * 2, max_bytes)
    index_room = 700 * len(view.layers) + 120 * len(view.layers) * len(view.contenders)
    room = max_bytes - len(empty.encode()) - index_room - 1000
    if room < 0:
        raise InputError(
            "the overview alone does not fit the bound",
            place="--max-mb",
            value=round(max_bytes / 1e6, 3),
            remedy=f"allow {(max_bytes - room) / 1e6 + 0.1:.1f} or more",
        )
    kept = levels(view, room)
    page = _page(view, about, text, first.index, widths, kept, max_bytes).encode()
    if len(page) > max_bytes:  # pragma: no cover  # the index is smaller than what was set aside
        raise InputError("the page outgrew its bound", place="--max-mb", value=len(page))
    path = Path(path)
    path.write_bytes(page)
    return Written(path, len(page), max_bytes, summary(view), _kept(view, widths, kept, max_bytes))


def _page(
    view: LoadView,
    about: About,
    text: str,
    index: dict[str, list[int]],
    widths: dict[str, int],
    kept: Sequence[Level],
    bound: int,
) -> str:
    ranks, experts = kept
    rows = summary(view)
    colours, dashes = _look(view, about)
    best = _best(rows, about)
    manifest = {
        "contenders": view.contenders,
        "known": view.known,
        "colours": [colours[label] for label in view.contenders],
        "dashes": [dashes[label] for label in view.contenders],
        "ranks": view.num_ranks,
        "experts": 0 if view.home is None else len(view.home),
        "times": len(view.positions),
        "layers": len(view.layers),
        "summary": rows,
        "best": best,
        **widths,
        "overview": index,
        "rank_level": {"every": ranks.every, "layers": ranks.indices},
        "expert_level": {"every": experts.every, "layers": experts.indices},
        "palette": {
            "cool": style.BLUE,
            "warm": style.VERMILION,
            "mild": style.ORANGE,
            "ink": style.INK,
            "muted": style.MUTED,
            "faint": style.FAINT,
        },
    }
    texts = {"overview": text}
    for name, level in (("ranks", ranks), ("experts", experts)):
        texts |= {f"{name}{at}": one for at, one in enumerate(level.texts)}
    parts = {
        "title": html.escape(f"Expert load: {about.source} ({about.kind})"),
        "source": html.escape(about.source),
        "kind": html.escape(about.kind),
        "kind_class": "synthetic" if about.kind == "SYNTHETIC" else "recorded",
        "workload": html.escape(about.workload),
        "digest": html.escape(about.digest),
        "finding": html.escape(_finding(rows, best)),
        "table": table(rows, colours),
        "kept": items(_kept(view, widths, kept, bound)),
        "notes": items([*_counted(view), *about.notes]),
    }
    return assemble(manifest, texts, parts)


def _look(view: LoadView, about: About) -> tuple[dict[str, str], dict[str, list[int]]]:
    look = style.policy_look(view.contenders, {view.contenders[0]: "none", **about.names})
    colours = {label: colour for label, (colour, _) in look.items()}
    # A canvas counts dashes in pixels; matplotlib in line widths.
    dashes = {
        label: [] if isinstance(dash, str) else [2 * length for length in dash[1]]
        for label, (_, dash) in look.items()
    }
    return colours, dashes


def _best(rows: list[dict[str, Any]], about: About) -> int:
    """Return the most balanced contender that a machine could run; 0 if there is none."""
    real = [at for at in range(1, len(rows)) if about.names.get(rows[at]["contender"]) != "ideal"]
    return min(real, key=lambda at: rows[at]["mean"], default=len(rows) - 1)


def _finding(rows: list[dict[str, Any]], best: int) -> str:
    """One sentence: what balancing does to the distribution."""
    before = rows[0]
    text = (
        f"Before balancing the fullest rank holds {before['mean']:.2f} times the mean load on "
        f"average, and {before['p99']:.2f} times in the worst hundredth of the records."
    )
    if best:
        row = rows[best]
        text += f" After {row['contender']} it is {row['mean']:.3f} and {row['p99']:.3f}."
    return text


def _counted(view: LoadView) -> list[str]:
    left_out = int((~view.counted).sum())
    text = f"{int(view.counted.sum())} records count in the table and the distribution"
    if left_out:
        text += (
            f"; {left_out} are left out of both for all policies, because there a history policy "
            "had not seen its window yet (start of the trace, or after a gap); the plots over "
            "time show them"
        )
    return [text + "."]


def _kept(view: LoadView, widths: dict[str, int], kept: Sequence[Level], bound: int) -> list[str]:
    """Say what the page holds and what was thinned to keep its bound."""
    count, ranks, experts = len(view.time), *kept
    cell, share = widths["cell_width"], widths["share_width"]
    said = [
        f"Bound of this file: {bound / 1e6:g} MB (--max-mb).",
        f"Imbalance: all {count} records"
        + ("." if cell == 1 else f", as mean and largest of every {cell} micro-batches."),
        "Mean rank loads over all layers: all records"
        + ("." if share == 1 else f", as means of every {share} micro-batches."),
        f"Rank loads of single records: {_thinned(ranks, count)}",
    ]
    if view.home is not None:
        said.append(f"Experts of single records: {_thinned(experts, count)}")
    return said


def _thinned(level: Level, count: int) -> str:
    if level.records == count:
        return f"all {count} records, exact."
    if not level.records:
        return "none: the bound leaves no room."
    return (
        f"THINNED to one micro-batch in {level.every}, and {level.worst} more records that are the "
        f"worst of their layer: {level.records} of {count} records; those are exact."
    )
