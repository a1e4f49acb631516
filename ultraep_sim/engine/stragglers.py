"""Who is slow and by how much: the conditions a run happens under.

What is slow for the whole run is a static factor on the kernel times of a GPU and is part of a
job's busy times; jitter is too. What begins or ends midway is in `ultraep_sim.engine.spells` and
is for the event engine. Lost GPUs interrupt a campaign of iterations, not one iteration.

Decisions where the sources leave room:

- Profiles describe the median GPU, so the static spread has median 1: half of the GPUs are a
  little faster. Every other mechanism only slows down.
- A slow link slows every transfer kernel of its GPU as a whole, floor included. A GPU that talks
  to it waits for it where the kernel ends, as ranks do after every kernel.
- A lost switch plane takes its share of the bandwidth of every GPU of the domain: traffic spreads
  evenly over planes.
- Jitter has mean 1, because measured kernel tables hold means. It strikes every kernel of a MoE
  layer on every rank on its own, the solve of a plan included; dense layers and head have none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.conditions import WHISKERS_SD
from ultraep_sim.scenario.stragglers import StragglerSpec

from .job import PHASE_PART, Episode
from .spells import HORIZON_S, Geometry, Loss, episodes, stream

__all__ = ["Conditions", "Geometry", "Loss"]

Seconds = NDArray[np.float64]


class Conditions:
    """Stragglers and faults of one run, drawn from named random streams.

    Parameters
    ----------
    spec : StragglerSpec or None
        None: nothing is slow and nothing breaks.
    geometry : Geometry
    seed : int
        Each mechanism has streams of its own: switching one on or off leaves the draws of the
        others as they are.

    Attributes
    ----------
    compute, link : float64 [G]
        Static factors of kernel time by global rank ``(replica * stages + stage) * ranks + rank``;
        above 1 is slower.

    Raises
    ------
    ScenarioError
        A GPU or domain is named that there is not.
    """

    def __init__(self, spec: StragglerSpec | None, geometry: Geometry, seed: int = 0) -> None:
        self.spec = StragglerSpec() if spec is None else spec
        self.geometry, self.seed = geometry, seed
        size = (geometry.replicas, geometry.stages, geometry.ranks)
        self.spec.check(*size, geometry.domain_size)
        self.compute = self._spread() * self._slow_hosts()
        self.link = self._dead_planes()
        for slow in self.spec.slow_gpus:
            self.compute[slow.number(*size)] *= slow.factor
        for slow in self.spec.slow_links:
            self.link[slow.number(*size)] *= slow.factor
        for factors in (self.compute, self.link):
            factors.flags.writeable = False

    @property
    def static(self) -> bool:
        """Whether no spell can happen, so that the fast path can run every iteration."""
        planes, thermal = self.spec.dead_planes, self.spec.thermal
        midway = planes is not None and bool(planes.at_s)
        spells = thermal is not None and bool(thermal.rate_per_gpu_hour or thermal.episodes)
        return not (midway or spells)

    def speeds(self, replica: int = 0, stage: int = 0) -> NDArray[np.float64]:
        """Return the static compute speeds of one group, float64 [R], for speed-aware planning."""
        speeds: NDArray[np.float64] = 1.0 / self._group(self.compute)[replica, stage]
        return speeds

    def apply(
        self,
        busy: Mapping[str, Seconds],
        iteration: int,
        replica: int,
        stage_of_layer: NDArray[np.integer],
    ) -> dict[str, Seconds]:
        """Slow down the kernels of one replica.

        Parameters
        ----------
        busy : mapping of str to float64 [M, L, R]
            Seconds by phase (keys of `PHASE_PART`) on usual GPUs.
        iteration, replica : int
        stage_of_layer : integer ndarray [L]
            Pipeline stage of each MoE layer.

        Returns
        -------
        dict of str to float64 [M, L, R]
            New arrays where anything is slow, else those given.
        """
        factors = {
            "compute": self._group(self.compute)[replica, stage_of_layer],
            "link": self._group(self.link)[replica, stage_of_layer],
        }
        out: dict[str, Seconds] = {}
        for index, (phase, part) in enumerate(PHASE_PART.items()):
            if phase not in busy:
                continue
            seconds = busy[phase]
            if part in factors and (factors[part] != 1.0).any():
                seconds = seconds * factors[part]
            if self.spec.jitter is not None and self.spec.jitter.sigma:
                seconds = seconds * self.jitter(iteration, replica, seconds.shape, index)
            out[phase] = seconds
        return out

    def apply_extra(self, seconds: Seconds) -> Seconds:
        """Slow down the dense layers, embedding and head.

        Parameters
        ----------
        seconds : float64 [D, VS, R]
            As in `Job`; virtual stage ``v * stages + s`` runs on stage ``s``.
        """
        stage = np.arange(seconds.shape[1]) % self.geometry.stages
        slowed: Seconds = seconds * self._group(self.compute)[:, stage]
        return slowed

    def jitter(
        self, iteration: int, replica: int, shape: tuple[int, ...], phase: int
    ) -> NDArray[np.float64]:
        """Return factors with mean 1; the same for the same place, whatever was drawn before.

        Parameters
        ----------
        iteration, replica : int
        shape : tuple of int
            (M, L, R).
        phase : int
            Position in `PHASE_PART`.
        """
        sigma = self.spec.jitter.sigma if self.spec.jitter is not None else 0.0
        if not sigma:
            return np.ones(shape)
        draws = stream(self.seed, "jitter", iteration, replica, phase).standard_normal(shape)
        draws *= sigma
        draws -= sigma**2 / 2
        return np.exp(draws, out=draws)

    def episodes(
        self, iteration_start_s: float, horizon_s: float = HORIZON_S
    ) -> tuple[Episode, ...]:
        """Return the spells an iteration may meet, in order of their start.

        Parameters
        ----------
        iteration_start_s : float
            When it starts, in simulated seconds since the start of the run.
        horizon_s : float
            How long it lasts at most; what begins later is left out.

        Returns
        -------
        tuple of Episode
            Times count from the start of the iteration; a start may lie before it and an end may
            be infinite. Spells of one GPU may overlap.
        """
        return episodes(self.spec, self.geometry, self.seed, iteration_start_s, horizon_s)

    def losses(self, start_s: float, end_s: float) -> tuple[Loss, ...]:
        """Return the GPUs lost from `start_s` to before `end_s`, in order of time.

        Parameters
        ----------
        start_s, end_s : float
            Simulated seconds since the start of the run.
        """
        spec, g = self.spec.failures, self.geometry
        if spec is None:
            return ()
        found = [Loss(g.number(loss), loss.at_s) for loss in spec.losses]
        if spec.mean_time_between_h is not None:
            from .event.faults import poisson_failures  # here, for it brings SimPy

            mean = 3600.0 * spec.mean_time_between_h
            drawn = poisson_failures(self.seed, g.gpus, mean, horizon_s=end_s)
            found += [Loss(failure.gpu, failure.time_s) for failure in drawn]
        inside = [loss for loss in found if start_s <= loss.at_s < end_s]
        return tuple(sorted(inside, key=lambda loss: (loss.at_s, loss.gpu)))

    def notes(self) -> list[str]:
        """Say in a few words what is slow for the whole run."""
        notes = []
        for what, factors in (("compute", self.compute), ("links", self.link)):
            slow = int((factors > 1.05).sum())
            worst = int(factors.argmax())
            if factors[worst] > 1.0:
                notes.append(
                    f"{what}: {slow} of {len(factors)} GPUs more than 5 % slow; "
                    f"the slowest, GPU {worst}, takes {factors[worst]:.2f} times as long"
                )
        return notes

    def _group(self, factors: Seconds) -> Seconds:
        """View [G] as [D, P, R]."""
        g = self.geometry
        return factors.reshape(g.replicas, g.stages, g.ranks)

    def _spread(self) -> Seconds:
        if self.spec.spread is None:
            return np.ones(self.geometry.gpus)
        sigma = self.spec.spread.band / WHISKERS_SD
        return np.exp(sigma * stream(self.seed, "spread").standard_normal(self.geometry.gpus))

    def _slow_hosts(self) -> Seconds:
        spec = self.spec.slow_hosts
        if spec is None:
            return np.ones(self.geometry.gpus)
        host = np.arange(self.geometry.gpus) // spec.gpus_per_host
        slow = stream(self.seed, "slow_hosts").random(int(host[-1]) + 1) < spec.fraction
        return np.where(slow[host], spec.factor, 1.0)

    def _dead_planes(self) -> Seconds:
        spec = self.spec.dead_planes
        if spec is None or spec.at_s:
            return np.ones(self.geometry.gpus)
        hit = np.isin(self.geometry.domain_of, spec.domains)
        return np.where(hit, spec.factor, 1.0)
