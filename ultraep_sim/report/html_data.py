"""From a `LoadView` to the levels a page holds: overview first, single loads layer by layer.

The overview (imbalance over time x layer, mean rank loads over time, quantiles) is always there.
Rank loads, and expert loads with what was moved, are thinned by leaving out micro-batches until
the page fits its bound; the worst record of each layer stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ultraep_sim.report.html_codec import Entry, Pack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ultraep_sim.engine.load_view import LoadView

MAX_CELLS = 2**16  # of the overview of one contender
MILLI = 1000  # imbalance and shares in the overview are whole thousandths
QUANTILES = 128
QUANTILE_UNIT = 10_000
RANKS_SHARE = 0.6  # of the room for single loads, where not all of them fit


@dataclass(frozen=True)
class Level:
    """Single loads of some records, a text a layer.

    Attributes
    ----------
    every : int
        Micro-batches between two that were kept.
    records : int
        How many were kept, the worst included.
    worst : int
        How many of them were kept only because they are the worst of their layer.
    texts : list of str
    indices : list of dict
        By layer: what `Pack.index` says.
    """

    every: int
    records: int
    worst: int
    texts: list[str]
    indices: list[dict[str, Entry]]

    @property
    def size(self) -> int:
        """Bytes of the texts."""
        return sum(map(len, self.texts))


def overview(view: LoadView) -> tuple[Pack, dict[str, int]]:
    """Return the level that is read when the page opens, and the widths of its bins of time."""
    pack, times, layers = Pack(), len(view.positions), len(view.layers)
    bins = max(16, min(times, MAX_CELLS // layers))
    width = max(1, -(-times // bins))
    pack.add("step", view.positions[:, 0], 1)
    pack.add("micro_batch", view.positions[:, 1], 0)
    pack.add("layers", view.layers, 1)
    pack.add("home", [] if view.home is None else view.home, 1)
    shape = (-(-times // width), layers)
    cell = view.time // width * layers + view.layer
    first = view.time % width == 0
    counted = np.zeros(shape, np.int64)
    counted.ravel()[cell[first]] = view.counted[first]
    pack.add("counted", counted, layers)
    for at, values in enumerate(view.imbalance):
        milli = np.rint(values * MILLI).astype(np.int64)
        for name, grid in _grids(milli, cell, first, shape).items():
            if name == "sample" or width > 1:
                pack.add(f"{name}{at}", grid, layers)
        pack.add(f"share{at}", np.rint(view.share[at] * MILLI), view.num_ranks)
        pack.add(f"quantile{at}", _quantiles(view, values), 1)
    pack.add("worst_time", view.time[view.worst])
    pack.add("worst_layer", view.layer[view.worst])
    return pack, {"cell_width": width, "share_width": view.share_width}


def _grids(
    milli: NDArray[np.int64],
    cell: NDArray[np.int64],
    first: NDArray[np.bool_],
    shape: tuple[int, int],
) -> dict[str, NDArray[np.int64]]:
    """One micro-batch of each bin, the bin's mean and its largest; 0 where nothing is."""
    sample, peak = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    sample.ravel()[cell[first]] = milli[first]
    np.maximum.at(peak.ravel(), cell, milli)
    count = np.bincount(cell, minlength=peak.size)
    total = np.bincount(cell, milli, peak.size)
    mean = np.rint(total / np.maximum(count, 1)).astype(np.int64).reshape(shape)
    return {"sample": sample, "mean": mean, "peak": peak}


def _quantiles(view: LoadView, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Quantiles over all layers and then over each, of the records that count, [L + 1, Q + 1]."""
    at = np.linspace(0, 1, QUANTILES + 1)
    found = [np.quantile(values[view.counted], at)]
    order = np.argsort(view.layer, kind="stable")
    for rows in np.split(order, np.searchsorted(view.layer[order], range(1, len(view.layers)))):
        mine = rows[view.counted[rows]]
        found.append(np.quantile(values[mine], at) if len(mine) else np.zeros(len(at)))
    return np.rint(np.stack(found) * QUANTILE_UNIT).astype(np.int64)


def summary(view: LoadView) -> list[dict[str, Any]]:
    """Return a row a contender, exactly and over every record that counts."""
    rows = []
    for label, values in zip(view.contenders, view.imbalance, strict=True):
        mine = values[view.counted]
        rows.append(
            {
                "contender": label,
                "mean": float(mine.mean()),
                "median": float(np.median(mine)),
                "p99": float(np.percentile(mine, 99)),
                "max": float(mine.max()),
            }
        )
    return rows


def levels(view: LoadView, room: int) -> tuple[Level, Level]:
    """Encode rank loads and expert loads in at most ``room`` bytes of text.

    Thinning is by whole micro-batches of all layers, so that what is left can be read as a
    regular sample; the worst records are kept beside it.

    Returns
    -------
    ranks, experts : Level
        No expert level (of no records) where expert loads are not known.
    """
    if view.home is None:
        return _fitted(view, _rank_pack, room, view.stride), Level(0, 0, 0, [], [])
    ranks = _fitted(view, _rank_pack, int(room * RANKS_SHARE), view.stride)
    return ranks, _fitted(view, _expert_pack, room - ranks.size, ranks.every)


def _fitted(
    view: LoadView, pack: Callable[[LoadView, list[int]], Pack], room: int, every: int
) -> Level:
    """Leave out more micro-batches until a level fits, and at last some of the worst records."""
    worst = view.worst
    while True:
        regular = {row for row in view.details if view.time[row] % every == 0}
        rows = sorted(regular | set(worst))
        packs = [pack(view, mine) for mine in _by_layer(view, rows)]
        texts, indices = [p.text() for p in packs], [p.index for p in packs]
        level = Level(every, len(rows), len(rows) - len(regular), texts, indices)
        if level.size <= room:
            return level
        if every < len(view.positions):
            kept = every // view.stride
            every = view.stride * max(kept + 1, int(kept * level.size / max(room, 1)))
        elif worst:
            worst = worst[: len(worst) // 2]
        else:
            return Level(0, 0, 0, [], [])


def _by_layer(view: LoadView, rows: list[int]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in view.layers]
    for row in rows:
        found[view.layer[row]].append(row)
    return found


def _rank_pack(view: LoadView, rows: list[int]) -> Pack:
    pack = Pack()
    pack.add("time", view.time[rows], 1)
    for at, known in enumerate(view.known):
        if known:
            pairs = [view.details[row].pairs[at] for row in rows]
            pack.add(f"pairs{at}", _stacked(pairs), view.num_ranks)
    return pack


def _expert_pack(view: LoadView, rows: list[int]) -> Pack:
    pack, details = Pack(), [view.details[row] for row in rows]
    pack.add("time", view.time[rows], 1)
    loads = [one.loads for one in details if one.loads is not None]
    pack.add("loads", _stacked(loads), 0 if view.home is None else len(view.home))
    for at in range(1, len(view.contenders)):
        moved = [one.away[at] for one in details]
        known = [one for one in moved if one is not None]
        if len(known) < len(moved) or not moved:
            continue
        pack.add(f"moved{at}", [len(one.expert) for one in known])
        pack.add(f"expert{at}", _stacked([one.expert for one in known]), 1)
        pack.add(f"rank{at}", _stacked([one.rank for one in known]))
        pack.add(f"quota{at}", _stacked([one.quota for one in known]))
    return pack


def _stacked(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(parts) if parts else np.empty(0, np.int32)
