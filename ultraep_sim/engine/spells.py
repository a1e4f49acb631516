"""What begins or ends midway: spells of slowness, and planes that die.

Random spells are a Poisson stream in blocks of an hour, each block with a generator of its own:
any hour can be drawn without the hours before it. A run begins in the steady state, so a spell may
have begun before it. What a lost GPU does to a run is in `ultraep_sim.engine.event.faults`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.scenario.stragglers import GpuSpec, StragglerSpec, ThermalSpec

from .job import Episode

#: How far ahead of the start of an iteration spells are looked for.
HORIZON_S = 3600.0
_BLOCK_S = 3600.0
# Keys of generators are not negative; spells that began before the run (at most 1e6 s before it)
# lie in blocks with negative numbers.
_FIRST_BLOCK = -1024


@dataclass(frozen=True)
class Geometry:
    """Which GPUs there are.

    Attributes
    ----------
    replicas, stages, ranks : int
        D, P, R.
    domain_size : int
        GPUs of a scale-up domain.
    """

    replicas: int
    stages: int
    ranks: int
    domain_size: int

    @property
    def gpus(self) -> int:
        """G = D x P x R."""
        return self.replicas * self.stages * self.ranks

    @property
    def domain_of(self) -> NDArray[np.int64]:
        """Scale-up domain of each GPU, int64 [G], packed as `fabric.groups.place_groups` does."""
        group, rank = np.divmod(np.arange(self.gpus), self.ranks)
        if self.ranks <= self.domain_size:  # as many groups share a domain as fit whole
            shared: NDArray[np.int64] = group // (self.domain_size // self.ranks)
            return shared
        each = -(-self.ranks // self.domain_size)
        domain: NDArray[np.int64] = group * each + rank // self.domain_size
        return domain

    def number(self, gpu: GpuSpec) -> int:
        """Global number of a GPU that a scenario names."""
        return gpu.number(self.replicas, self.stages, self.ranks)


@dataclass(frozen=True)
class Loss:
    """A GPU that is lost.

    Attributes
    ----------
    gpu : int
        Global number.
    at_s : float
        Simulated seconds since the start of the run.
    """

    gpu: int
    at_s: float


def stream(seed: int, name: str, *place: int) -> np.random.Generator:
    """Return the generator of one mechanism, by name; Philox is counter-based and portable."""
    key = (zlib.crc32(f"stragglers/{name}".encode()), *place)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def episodes(
    spec: StragglerSpec, geometry: Geometry, seed: int, start_s: float, horizon_s: float
) -> tuple[Episode, ...]:
    """Return the spells that overlap ``[start, start + horizon)``, in order of their start.

    Returns
    -------
    tuple of Episode
        Times count from `start_s`.
    """
    found = [
        *_planes(spec, geometry),
        *_listed(spec.thermal, geometry),
        *_thermal(spec.thermal, geometry, seed, (start_s, start_s + horizon_s)),
    ]
    met = [e for e in found if e.end_s > start_s and e.start_s < start_s + horizon_s]
    return tuple(
        Episode(e.gpus, e.part, e.factor, e.start_s - start_s, e.end_s - start_s)
        for e in sorted(met, key=lambda e: (e.start_s, int(e.gpus[0]), e.part))
    )


def _planes(spec: StragglerSpec, geometry: Geometry) -> list[Episode]:
    """Switch planes that die midway, and stay dead."""
    planes = spec.dead_planes
    if planes is None or not planes.at_s:
        return []
    gpus = np.flatnonzero(np.isin(geometry.domain_of, planes.domains))
    return [Episode(gpus, "link", planes.factor, planes.at_s, math.inf)]


def _listed(spec: ThermalSpec | None, geometry: Geometry) -> list[Episode]:
    return [
        Episode(np.array([geometry.number(e)]), e.part, e.factor, e.start_s, e.end_s)
        for e in (spec.episodes if spec else ())
    ]


def _thermal(
    spec: ThermalSpec | None, geometry: Geometry, seed: int, span: tuple[float, float]
) -> list[Episode]:
    """Draw the random spells that reach into a span of time."""
    if spec is None or not spec.rate_per_gpu_hour:
        return []
    found: list[Episode] = []
    shortest, longest = np.log(spec.duration_s)
    rate = spec.rate_per_gpu_hour * geometry.gpus * _BLOCK_S / 3600.0
    for block in _blocks(span[0] - spec.duration_s[1], span[1]):
        rng = stream(seed, "thermal", block - _FIRST_BLOCK)
        count = int(rng.poisson(rate))
        gpus = rng.integers(geometry.gpus, size=count)
        begin = (block + rng.random(count)) * _BLOCK_S
        factor = rng.uniform(*spec.factor, size=count)
        end = begin + np.exp(rng.uniform(shortest, longest, size=count))
        found += [
            Episode(gpus[i : i + 1], "compute", float(factor[i]), float(begin[i]), float(end[i]))
            for i in np.flatnonzero((end > span[0]) & (begin < span[1]))
        ]
    return found


def _blocks(start_s: float, end_s: float) -> range:
    """Hours that overlap a span of time."""
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        raise InputError(
            "not a span of simulated seconds",
            place="span",
            value=(start_s, end_s),
            remedy="give finite times",
        )
    return range(math.floor(start_s / _BLOCK_S), math.ceil(end_s / _BLOCK_S))
