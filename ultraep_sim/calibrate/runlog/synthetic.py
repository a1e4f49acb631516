"""Draw an operator's log with known parameters: to test the fit, and as an example to read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ultraep_sim.calibrate.runlog.log import KINDS, Floats, Log


@dataclass(frozen=True)
class Truth:
    """Parameters of a synthetic run.

    Parameters
    ----------
    ranks, steps, layers : int
    pairs : float
        Mean load of a rank.
    skew, jitter : float
        Relative spread of the ranks' loads that stays (by layer), and that changes by step.
    launch_us, compute_ns : float
        Experts: fixed, and per pair.
    backward_ns : float
        Experts' backward per pair; twice the launch.
    floor_us, dispatch_ns, combine_ns : float
    fixed_us, exposed_ns : float
        Layer: what is neither experts nor communication, and exposed communication per pair.
    stragglers : tuple of (int, float)
        Rank and factor of its experts' time.
    noise : float
        Standard deviation of the logarithm of a time.
    """

    ranks: int = 8
    steps: int = 60
    layers: int = 2
    pairs: float = 16000.0
    skew: float = 0.3
    jitter: float = 0.1
    launch_us: float = 110.0
    compute_ns: float = 48.0
    backward_ns: float = 110.0
    floor_us: float = 12.0
    dispatch_ns: float = 20.0
    combine_ns: float = 22.0
    fixed_us: float = 900.0
    exposed_ns: float = 35.0
    stragglers: tuple[tuple[int, float], ...] = ((5, 1.12),)
    noise: float = 0.02

    def factor(self, rank: int) -> float:
        """How much longer a rank's experts take."""
        return dict(self.stragglers).get(rank, 1.0)


def synthetic_log(
    truth: Truth, seed: int, kinds: tuple[str, ...] = ("experts", "dispatch", "combine", "layer")
) -> Log:
    """Draw a log, rows in the order in which they would be written.

    Parameters
    ----------
    truth : Truth
    seed : int
    kinds : tuple of str
        Of `KINDS`, without ``weights`` and ``step``.
    """
    rng = np.random.default_rng(seed)
    shape = (truth.steps, truth.layers, truth.ranks)
    fixed = np.exp(truth.skew * rng.standard_normal(shape[1:]))
    load = np.rint(truth.pairs * fixed * np.exp(truth.jitter * rng.standard_normal(shape)))
    parts: list[tuple[str, Floats]] = [
        (kind, _times(kind, truth, load) * np.exp(truth.noise * _noise(kind, rng, load)))
        for kind in kinds
    ]
    step, layer, rank = (grid.ravel() for grid in np.indices(shape))
    count, each = len(step), len(parts)
    log = Log(
        row=np.arange(1, count * each + 1),
        step=np.repeat(step, each),
        unit=np.repeat(rank, each),
        layer=np.repeat(layer, each),
        micro_batch=np.zeros(count * each, np.int64),
        kind=np.tile(np.array(kinds), count),
        ms=np.stack([ms.ravel() for _, ms in parts], axis=1).ravel(),
        load=np.repeat(load.ravel(), each),
        start_ms=None,
        unit_name="rank",
        sources=((f"synthetic {seed}", ""),),
    )
    return replace(log, ms=np.round(log.ms, 5))


def _noise(kind: str, rng: np.random.Generator, load: Floats) -> Floats:
    """One draw a row, or one a group where all ranks wait for each other."""
    if not KINDS[kind]:
        return rng.standard_normal(load.shape)
    return np.broadcast_to(rng.standard_normal(load.shape[:2])[..., None], load.shape)


def _times(kind: str, truth: Truth, load: Floats) -> Floats:
    """Milliseconds without noise, float64 [steps, layers, ranks]."""
    factor = np.array([truth.factor(rank) for rank in range(truth.ranks)])
    experts = factor * (truth.launch_us * 1e-3 + truth.compute_ns * 1e-6 * load)
    if kind == "experts":
        return experts
    if kind == "experts_backward":
        return factor * (2 * truth.launch_us * 1e-3 + truth.backward_ns * 1e-6 * load)
    if kind in ("dispatch", "combine"):
        pair = truth.dispatch_ns if kind == "dispatch" else truth.combine_ns
        return np.asarray(truth.floor_us * 1e-3 + pair * 1e-6 * load)
    slowest = experts.max(axis=-1) + truth.exposed_ns * 1e-6 * load.max(axis=-1)
    return np.broadcast_to((truth.fixed_us * 1e-3 + slowest)[..., None], load.shape)


def to_csv(log: Log, comment: str) -> str:
    """Write a log as CSV under a comment."""
    lines = [f"# {comment}", "step,rank,layer,kind,load,ms"]
    for i in range(len(log)):
        head = f"{log.step[i]},{log.unit[i]},{log.layer[i]},{log.kind[i]}"
        lines.append(f"{head},{log.load[i]:.0f},{log.ms[i]:.5g}")
    return "\n".join(lines) + "\n"
