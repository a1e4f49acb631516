"""Load dynamics of the published runs: the only thing that is fitted to them.

How skewed the load is follows from the imbalance without balancing. How fast it changes decides
what a placement from history is worth, so the imbalance that EPLB leaves says how fast it does: one
number, the noise that is drawn anew for every micro-batch, found by bisection along chords.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.replay import Chunk, PolicyReplay, replay
from ..errors import TraceError
from ..planning import EPLayout
from ..planning.stats import LoadStats
from ..policies import DecisionPrice, get_policy
from ..trace import Trace, synthesize
from .training_cases import CADENCE_STEPS, TOKENS, Case

#: Layers and global batches that are drawn, and micro-batches of each.
LAYERS, STEPS, MICRO_BATCHES = 6, 12, 4
TILE_ROWS = 128

FITTED = Path(__file__).with_name("fitted_dynamics.csv")

_TRIALS = 12
_CLOSE = 0.006  # of an imbalance, relative; the published ones have two decimals
_MOST_NOISE = 0.6

#: Options the published rows were taken with (migration cost next to nothing).
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    name: {"cadence_steps": CADENCE_STEPS, "migration": "free"} for name in ("eplb", "lplb")
}


@dataclass(frozen=True)
class Dynamics:
    """What a synthetic trace is drawn with.

    Attributes
    ----------
    imbalance : float
        Given to `synthesize`.
    noise : float
        Standard deviation of log popularity, anew for every micro-batch.
    fitted_to : str
        What decided the noise.
    none, eplb : float or None
        The imbalances they were fitted to.
    """

    imbalance: float
    noise: float
    fitted_to: str
    none: float | None = None
    eplb: float | None = None

    def fits(self, case: Case, eplb: float | None = None) -> bool:
        """Say whether these were fitted to what a case asks for now, see `fit`."""
        goals = _goals(case, eplb)
        mine = (self.none, self.eplb)
        return None not in mine and all(
            abs(ours - goal) < 1e-4  # type: ignore[operator]  # neither is None
            for ours, goal in zip(mine, goals, strict=True)
        )


@dataclass(frozen=True)
class PolicyLoads:
    """What a policy made of the loads of one case, warm records only.

    Attributes
    ----------
    imbalance : float
        Mean over records of max over mean rank load.
    stats : LoadStats
    price : DecisionPrice
    """

    imbalance: float
    stats: LoadStats
    price: DecisionPrice


def stored() -> dict[str, Dynamics]:
    """Return what was found by `fit` (docs/refresh_accuracy.py writes it), by model."""
    with FITTED.open(newline="", encoding="utf-8") as file:
        return {
            row["model"]: Dynamics(
                float(row["imbalance"]),
                float(row["noise"]),
                row["fitted_to"],
                float(row["none"]),
                float(row["eplb"]),
            )
            for row in csv.DictReader(file)
        }


def store(found: Mapping[str, Dynamics]) -> None:
    """Write what `fit` found where `stored` reads it."""
    with FITTED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "none", "eplb", "imbalance", "noise", "fitted_to"))
        for model, one in found.items():
            goals = (f"{one.none:.6f}", f"{one.eplb:.6f}")
            writer.writerow(
                (model, *goals, f"{one.imbalance:.4f}", f"{one.noise:.4f}", one.fitted_to)
            )


def fit(case: Case, eplb: float | None = None, seed: int = 0) -> Dynamics:
    """Find the dynamics that give the published imbalance of ``none`` and of ``eplb``.

    Parameters
    ----------
    case : Case
    eplb : float, optional
        Imbalance aimed at under ``eplb`` where none is published.
    seed : int
    """
    none, target = _goals(case, eplb)
    why = "published imbalance under none and eplb" if eplb is None else "share of excess EPLB left"
    skew, low, high = none, (0.0, 1.0), (_MOST_NOISE, np.inf)
    noise = _MOST_NOISE / 3
    for _ in range(_TRIALS):
        found = Dynamics(skew, noise, why, none, target)
        try:
            got = loads_of(case, found, ("none", "eplb"), seed)
        except TraceError:  # so much noise alone exceeds the imbalance without balancing
            high = (noise, np.inf)
        else:
            before, after = (got[name].imbalance for name in ("none", "eplb"))
            if abs(before / none - 1) < _CLOSE and abs(after / target - 1) < _CLOSE:
                return found
            skew = max(1.0, skew * none / before)  # noise moves it a little
            low, high = ((noise, after), high) if after < target else (low, (noise, after))
        noise = _between(low, high, target)
    return found


def _goals(case: Case, eplb: float | None) -> tuple[float, float]:
    none = case.published["none"].imbalance
    published = case.published["eplb"].imbalance if "eplb" in case.published else None
    target = published if eplb is None else eplb
    if none is None or target is None:
        raise ValueError("a case needs an imbalance of none and of eplb to be fitted to")
    return none, target


def _between(low: tuple[float, float], high: tuple[float, float], target: float) -> float:
    """Noise at which a straight line through both ends of a bracket meets the target.

    Halfway where one end is no number, and never closer to an end than a tenth of the bracket.
    """
    share = 0.5
    if np.isfinite(high[1]) and low[0] > 0:
        share = float(np.clip((target - low[1]) / (high[1] - low[1]), 0.1, 0.9))
    return low[0] + share * (high[0] - low[0])


def trace_of(case: Case, dynamics: Dynamics, seed: int = 0) -> Trace:
    """Draw the loads of a case. Sources are alike: only sums over ranks are timed."""
    return synthesize(
        case.shape.num_experts,
        case.shape.top_k,
        LAYERS,
        STEPS,
        1,
        TOKENS * case.ranks,
        dynamics.imbalance,
        case.ranks,
        seed=seed,
        micro_batches=MICRO_BATCHES,
        noise=dynamics.noise,
    ).with_sources(case.ranks)


def loads_of(
    case: Case, dynamics: Dynamics, policies: Sequence[str], seed: int = 0
) -> dict[str, PolicyLoads]:
    """Replay the loads of a case through policies, in the published setting."""
    layout = EPLayout(case.ranks, case.shape.num_experts, case.slots, case.ranks)
    made = {name: get_policy(name, layout, **OPTIONS.get(name, {})) for name in policies}
    size = LAYERS * STEPS * MICRO_BATCHES
    items = [PolicyReplay(name, policy, TILE_ROWS, size) for name, policy in made.items()]
    chunks: dict[str, Chunk] = {}  # the buffers hold all records: one chunk a policy
    replay(trace_of(case, dynamics, seed), items, lambda c: chunks.update({c.label: c}))
    # The same records for all: those a history policy had seen its window before.
    warm = _warm(next(iter(chunks.values())).step)
    return {
        name: PolicyLoads(
            _imbalance(chunks[name].stats, warm), chunks[name].stats.take(warm), policy.price()
        )
        for name, policy in made.items()
    }


def _warm(step: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero(step >= CADENCE_STEPS)


def _imbalance(stats: LoadStats, rows: NDArray[np.int64]) -> float:
    pairs = stats.pairs[rows]
    return float((pairs.max(axis=1) * pairs.shape[1] / pairs.sum(axis=1)).mean())
