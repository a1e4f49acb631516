"""What is slow or breaks in a scenario: each mechanism is one key, absent or null is off.

An empty mapping takes the published figures: ``stragglers: {spread: {}, slow_hosts: {}}``. Factors
are times of kernels over their usual time: 1.1 is 10 % slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, model_validator

from ultraep_sim.errors import ScenarioError
from ultraep_sim.model import conditions as figures

from .strict import Strict

MAX_FACTOR = 1000.0
MAX_GPUS = 1 << 20


class SpreadSpec(Strict):
    """GPUs of one kind that are not equally fast; log-normal with median 1.

    Attributes
    ----------
    band : float
        Width, over the median, of the band that holds 99.3 % of the GPUs (published: 0.08).
    """

    band: float = Field(default=figures.SPREAD_BAND.value, ge=0.0, le=1.0)


class SlowHostsSpec(Strict):
    """Hosts whose GPUs are all slower, for good.

    Attributes
    ----------
    fraction : float
        Chance of each host to be slow.
    factor : float
    gpus_per_host : int
        Consecutive global ranks share a host.
    """

    fraction: float = Field(default=figures.SLOW_HOST_FRACTION.value, ge=0.0, le=1.0)
    factor: float = Field(default=figures.SLOW_HOST_FACTOR.value, ge=1.0, le=MAX_FACTOR)
    gpus_per_host: int = Field(default=int(figures.GPUS_PER_HOST.value), ge=1, le=MAX_GPUS)


class GpuSpec(Strict):
    """Which GPU: its global number, or its rank in an expert-parallel group.

    Attributes
    ----------
    gpu : int or None
        ``(replica * stages + stage) * ranks + rank``.
    rank : int or None
        Exactly one of ``gpu`` and ``rank`` is given.
    stage, replica : int
        The group of ``rank``.
    """

    gpu: int | None = Field(default=None, ge=0, lt=MAX_GPUS)
    rank: int | None = Field(default=None, ge=0, lt=MAX_GPUS)
    stage: int = Field(default=0, ge=0, lt=MAX_GPUS)
    replica: int = Field(default=0, ge=0, lt=MAX_GPUS)

    @model_validator(mode="after")
    def _one_name(self) -> GpuSpec:
        if (self.gpu is None) == (self.rank is None):
            raise ValueError("give exactly one of gpu and rank")
        if self.gpu is not None and (self.stage or self.replica):
            raise ValueError("stage and replica go with rank; gpu counts through all groups")
        return self

    def number(self, replicas: int, stages: int, ranks: int) -> int:
        """Global number of this GPU among ``replicas`` x ``stages`` groups of ``ranks``.

        Raises
        ------
        ScenarioError
            There is no such GPU.
        """
        given = {"gpu": replicas * stages * ranks}
        if self.gpu is None:
            given = {"rank": ranks, "stage": stages, "replica": replicas}
        for key, count in given.items():
            if getattr(self, key) >= count:
                raise _missing(key, getattr(self, key), count)
        if self.gpu is not None:
            return self.gpu
        return (self.replica * stages + self.stage) * ranks + int(self.rank or 0)


class SlowSpec(GpuSpec):
    """One GPU, or one GPU's scale-up link, that is slower for good.

    Attributes
    ----------
    factor : float
    """

    factor: float = Field(ge=1.0, le=MAX_FACTOR)


class DeadPlanesSpec(Strict):
    """Lost switch planes: every GPU of the scale-up domains loses that part of its bandwidth.

    Attributes
    ----------
    planes, dead : int
        Planes of the healthy domain, and how many are lost.
    domains : list of int
        Scale-up domains, counted through all expert-parallel groups from 0.
    at_s : float or None
        Simulated seconds since the start of the run; None: lost from the start.
    """

    planes: int = Field(default=int(figures.SWITCH_PLANES.value), ge=1, le=1024)
    dead: int = Field(default=1, ge=0)
    domains: list[int] = Field(default=[0], min_length=1)
    at_s: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _some_planes_live(self) -> DeadPlanesSpec:
        if self.dead >= self.planes:
            raise ValueError(
                f"{self.dead} dead of {self.planes} planes leaves no way between GPUs; "
                "lose fewer, or lose GPUs with failures"
            )
        if min(self.domains) < 0 or len(set(self.domains)) < len(self.domains):
            raise ValueError("domains lists each domain once, numbered from 0")
        return self

    @property
    def factor(self) -> float:
        """How many times longer transfers take: traffic spreads evenly over planes."""
        return self.planes / (self.planes - self.dead)


class EpisodeSpec(GpuSpec):
    """One spell in which a GPU, or its link, is slower.

    Attributes
    ----------
    factor : float
    start_s, end_s : float
        Simulated seconds since the start of the run.
    part : {"compute", "link"}
    """

    factor: float = Field(ge=1.0, le=MAX_FACTOR)
    start_s: float = Field(ge=0.0)
    end_s: float = Field(gt=0.0)
    part: Literal["compute", "link"] = "compute"

    @model_validator(mode="after")
    def _in_order(self) -> EpisodeSpec:
        if self.start_s >= self.end_s:
            raise ValueError("an episode ends after it starts; change end_s")
        return self


class ThermalSpec(Strict):
    """GPUs that slow down for a while, at random or as listed.

    Attributes
    ----------
    rate_per_gpu_hour : float
        Random episodes; 0 for the listed ones alone.
    factor : (float, float)
        Drawn evenly from this range.
    duration_s : (float, float)
        Drawn log-evenly from this range.
    episodes : list of EpisodeSpec
        These happen too.
    """

    rate_per_gpu_hour: float = Field(default=figures.THERMAL_RATE_PER_H.value, ge=0.0, le=100.0)
    factor: tuple[float, float] = Field(
        default=(figures.THERMAL_FACTOR_LOW.value, figures.THERMAL_FACTOR_HIGH.value), strict=False
    )
    duration_s: tuple[float, float] = Field(
        default=(figures.THERMAL_SHORTEST.si, figures.THERMAL_LONGEST.si), strict=False
    )
    episodes: list[EpisodeSpec] = Field(default_factory=list, max_length=100_000)

    @model_validator(mode="after")
    def _ranges(self) -> ThermalSpec:
        low, high = self.factor
        if not 1.0 <= low <= high <= MAX_FACTOR:
            raise ValueError(f"factor is [low, high] with 1 <= low <= high <= {MAX_FACTOR:g}")
        shortest, longest = self.duration_s
        if not 0.0 < shortest <= longest <= 1e6:
            raise ValueError(
                "duration_s is [shortest, longest] with 0 < shortest <= longest <= 1e6"
            )
        return self


class JitterSpec(Strict):
    """Kernels that take a little more or less each time; log-normal with mean 1.

    Attributes
    ----------
    sigma : float
        Standard deviation of the logarithm.
    """

    sigma: float = Field(default=figures.JITTER_SIGMA.value, ge=0.0, le=2.0)


class LossSpec(GpuSpec):
    """A GPU that is lost.

    Attributes
    ----------
    at_s : float
        Simulated seconds since the start of the run.
    """

    at_s: float = Field(ge=0.0)


class FailuresSpec(Strict):
    """Lost GPUs: work since the last checkpoint is done again on a spare.

    Attributes
    ----------
    mean_time_between_h : float or None
        Of one GPU; None for the listed losses alone.
    losses : list of LossSpec
        These happen too.
    iterations : int
        Length of the campaign; the iterations that are timed are repeated in turn.
    checkpoint_every_iterations : int
    checkpoint_s, restart_s : float
        Seconds that training stands still for a checkpoint, and from a loss to going on.
    """

    mean_time_between_h: float | None = Field(
        default=round(figures.MEAN_TIME_BETWEEN_FAILURES.si / 3600), gt=0.0
    )
    losses: list[LossSpec] = Field(default_factory=list, max_length=100_000)
    iterations: int = Field(default=1000, ge=1, le=1_000_000)
    checkpoint_every_iterations: int = Field(default=int(figures.CHECKPOINT_EVERY.value), ge=1)
    checkpoint_s: float = Field(default=figures.CHECKPOINT_TIME.si, ge=0.0)
    restart_s: float = Field(default=figures.RESTART_TIME.si, ge=0.0)


class StragglerSpec(Strict):
    """Everything that is slow or breaks.

    Attributes
    ----------
    spread : SpreadSpec or None
    slow_hosts : SlowHostsSpec or None
    slow_gpus, slow_links : list of SlowSpec
        The latter slow every transfer of the GPU over its scale-up link, the former its kernels.
    dead_planes : DeadPlanesSpec or None
    thermal : ThermalSpec or None
    jitter : JitterSpec or None
    failures : FailuresSpec or None
    """

    spread: SpreadSpec | None = None
    slow_hosts: SlowHostsSpec | None = None
    slow_gpus: list[SlowSpec] = Field(default_factory=list, max_length=MAX_GPUS)
    slow_links: list[SlowSpec] = Field(default_factory=list, max_length=MAX_GPUS)
    dead_planes: DeadPlanesSpec | None = None
    thermal: ThermalSpec | None = None
    jitter: JitterSpec | None = None
    failures: FailuresSpec | None = None

    def check(self, replicas: int, stages: int, ranks: int, domain_size: int) -> None:
        """Refuse GPUs and domains that a run of this size does not have.

        Parameters
        ----------
        replicas, stages, ranks : int
            Data-parallel copies of pipeline stages of expert-parallel ranks.
        domain_size : int
            GPUs of a scale-up domain; as many groups share one as fit whole.

        Raises
        ------
        ScenarioError
            Names the key below ``stragglers`` and the number that is too large.
        """
        for place, gpu in self._gpus():
            try:
                gpu.number(replicas, stages, ranks)
            except ScenarioError as error:
                raise ScenarioError(
                    error.problem,
                    place=f"{place}.{error.place}",
                    value=error.value,
                    remedy=error.remedy,
                ) from None
        from ultraep_sim.fabric.groups import domains_needed

        domains = domains_needed(replicas * stages, ranks, domain_size)
        for index, domain in enumerate(self.dead_planes.domains if self.dead_planes else ()):
            if domain >= domains:
                raise _missing(f"dead_planes.domains.{index}", domain, domains)

    def _gpus(self) -> Iterator[tuple[str, GpuSpec]]:
        """Yield every GPU that is named, and where."""
        lists: dict[str, Sequence[GpuSpec]] = {
            "slow_gpus": self.slow_gpus,
            "slow_links": self.slow_links,
            "thermal.episodes": self.thermal.episodes if self.thermal else (),
            "failures.losses": self.failures.losses if self.failures else (),
        }
        for place, gpus in lists.items():
            for index, gpu in enumerate(gpus):
                yield f"{place}.{index}", gpu


def _missing(place: str, value: object, count: int) -> ScenarioError:
    return ScenarioError(
        f"numbers here run from 0 to {count - 1}",
        place=place,
        value=value,
        remedy="name one the run has, or change ep.ranks, pipeline_stages or data_parallel",
    )
