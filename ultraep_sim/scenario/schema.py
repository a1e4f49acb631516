"""What a scenario is: strict models in which an unknown key or an impossible value is an error.

A scenario = a model shape + a rack + an expert-parallel group + a workload + policies + engine
settings. Units stand in the names of keys.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    field_validator,
    model_validator,
)

from ultraep_sim.errors import InputError
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.shapes import ModelShape
from ultraep_sim.scenario import presets
from ultraep_sim.scenario.requests import RequestsSpec
from ultraep_sim.scenario.serving import ServingSpec, serving_fits
from ultraep_sim.scenario.stragglers import MAX_GPUS, StragglerSpec
from ultraep_sim.scenario.strict import Strict
from ultraep_sim.scenario.topology import TopologySpec
from ultraep_sim.scenario.training import TrainingSpec, training_fits

if TYPE_CHECKING:
    from ultraep_sim.planning import EPLayout

Phase = Literal["training", "prefill"]
Dtype = Literal["bf16", "fp8", "fp4"]
Overlap = Literal["none", "shared_expert", "two_batch", "dualpipe"]

# The count of a rank must stay below 2^31 (the planner's integer contract) for any routing.
MAX_TOKENS_PER_RANK = 1 << 22
MAX_RANKS = 4096
MAX_SLOTS = 1024


# Optional sections, in the order a resolved scenario lists them.
_SECTIONS = ("training", "serving", "stragglers", "topology")


class EPSpec(Strict):
    """The expert-parallel group.

    Attributes
    ----------
    ranks : int
        Ranks of the group.
    slots_per_rank : int
        Redundant slots a rank keeps for replicas.
    domain_size : int or None
        Ranks of one scale-up domain; None takes the rack's.
    pipeline_stages, data_parallel : int
        Stages the layers are divided over, and copies of the EP group; they decide what memory a
        rank has left.
    """

    ranks: int = Field(ge=1, le=MAX_RANKS)
    slots_per_rank: int = Field(ge=0, le=MAX_SLOTS)
    domain_size: int | None = Field(default=None, ge=1)
    pipeline_stages: int = Field(default=1, ge=1, le=1024)
    data_parallel: int = Field(default=1, ge=1, le=65_536)

    @model_validator(mode="after")
    def _not_too_many(self) -> EPSpec:
        gpus = self.ranks * self.pipeline_stages * self.data_parallel
        if gpus > MAX_GPUS:
            raise ValueError(f"{gpus:,} GPUs are more than the {MAX_GPUS:,} that can be simulated")
        return self

    @model_validator(mode="after")
    def _domain_fits(self) -> EPSpec:
        if self.domain_size is not None and self.domain_size > self.ranks:
            raise ValueError(f"a domain_size of {self.domain_size} exceeds the {self.ranks} ranks")
        return self


class SyntheticSpec(Strict):
    """A drawn (not recorded) workload; every table it feeds says SYNTHETIC.

    Attributes
    ----------
    imbalance : float
        Rank imbalance (max / mean) aimed at, at the scenario's EP size.
    layers, steps : int
        How many MoE layers and steps are drawn.
    drift : float
        Standard deviation of each expert's log popularity around its profile, as it wanders from
        step to step; 0 for a fixed profile.
    noise : float
        The same, drawn anew for every micro-batch: what one batch of text differs from the next.
    source_noise : float
        The same, drawn anew for every source rank as well: ranks read different text.
    """

    imbalance: float = Field(ge=1.0, le=1000.0)
    layers: int = Field(default=8, ge=1, le=1000)
    steps: int = Field(default=20, ge=1, le=100_000)
    drift: float = Field(default=0.0, ge=0.0, le=3.0)
    noise: float = Field(default=0.0, ge=0.0, le=3.0)
    source_noise: float = Field(default=0.0, ge=0.0, le=3.0)


class WorkloadSpec(Strict):
    """Which load is replayed.

    Attributes
    ----------
    trace : Path or None
        A recorded trace; in a file, relative to the scenario file. Exactly one of ``trace``,
        ``synthetic`` and ``requests`` is given.
    synthetic : SyntheticSpec or None
    requests : RequestsSpec or None
        Requests that a server gets; the scenario has a ``serving`` section then.
    phase : {"training", "prefill"} or None
        None takes the trace's (``training`` for a synthetic one).
    tokens_per_rank : int or None
        Tokens a rank and micro-batch; the loads are rescaled to it. None keeps them as recorded.
    sequence_length : int
        Tokens of one sequence; sets the cost of attention.
    steps : (int, int) or None
        Half-open slice of step values.
    layers : tuple of int or None
        Layers to replay.
    """

    trace: Annotated[Path, Field(strict=False)] | None = None
    synthetic: SyntheticSpec | None = None
    requests: RequestsSpec | None = None
    phase: Phase | None = None
    tokens_per_rank: int | None = Field(default=None, ge=1, le=MAX_TOKENS_PER_RANK)
    sequence_length: int = Field(default=4096, ge=1, le=1 << 24)
    steps: tuple[int, int] | None = Field(default=None, strict=False)
    layers: tuple[int, ...] | None = Field(default=None, strict=False, min_length=1)

    @field_validator("steps")
    @classmethod
    def _steps_in_order(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError("steps is [first, stop) with 0 <= first < stop")
        return value

    @field_validator("layers")
    @classmethod
    def _layers_once(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(set(value)) != len(value) or min(value) < 0):
            raise ValueError("layers lists each layer once, numbered from 0")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> WorkloadSpec:
        given = [x is not None for x in (self.trace, self.synthetic, self.requests)]
        if sum(given) != 1:
            raise ValueError("give exactly one of trace, synthetic and requests")
        if self.synthetic is not None and self.tokens_per_rank is None:
            raise ValueError("a synthetic workload needs tokens_per_rank")
        return self


def _policy_from_short_form(value: Any) -> Any:
    """Read ``eplb`` as ``{name: eplb}``; keys other than name and label are policy options."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "options" not in value:
        known = {key: value[key] for key in ("name", "label") if key in value}
        options = {key: item for key, item in value.items() if key not in known}
        return {**known, "options": options}
    return value


class PolicySpec(Strict):
    """One policy of a scenario.

    Attributes
    ----------
    name : str
        A registered policy.
    label : str
        How tables and plots call it; the name by default, and unique in a scenario.
    options : dict
        Passed to the policy as keyword arguments.
    """

    name: str = Field(min_length=1)
    label: str = Field(default="", max_length=40)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _label_defaults_to_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "label" not in value and isinstance(value.get("name"), str):
            return {**value, "label": value["name"]}
        return value

    def written(self) -> str | dict[str, Any]:
        """Return the shortest form a scenario file reads back as this."""
        if self.label == self.name and not self.options:
            return self.name
        label = {} if self.label == self.name else {"label": self.label}
        return {"name": self.name, **label, **self.options}


class EngineSpec(Strict):
    """How a layer is timed.

    Attributes
    ----------
    mode : {"fast", "event"}
        How iterations are arranged in time: by the vectorised closed form, or event by event,
        which alone knows spells that begin or end inside an iteration. A single layer is always
        timed in closed form.
    recompute : {"none", "full"}
        Activation recomputation in training.
    weight_dtype, dispatch_dtype, combine_dtype : {"bf16", "fp8", "fp4"}
        Of expert weights, dispatched tokens and combined tokens.
    tile_rows : int
        Rows of a grouped-GEMM tile.
    deduplicate : bool
        Whether the all-to-all sends a token once to every rank it visits (estimated from counts,
        see `ultraep_sim.fabric.dedup`) and not once for every expert there.
    relay : {"auto", "off", "gain"}
        Two-stage weight relay where the policy allows it: by the published rule, never, or
        wherever the modelled distribution ends earlier.
    overlap : {"none", "shared_expert", "two_batch", "dualpipe"}
        Whether shared experts run behind dispatch and combine, or (in whole iterations) the
        all-to-alls of one micro-batch behind the kernels of another: two forwards or two
        backwards (``two_batch``), or a forward and a backward (``dualpipe``).
    restore : {"exposed", "overlapped"}
        Whether the backward's restore of replica weights hides behind attention.
    warmup : {"exclude", "include"}
        Whether records before a history policy has seen its window count in the means. They are
        left out of every policy's means alike.
    """

    mode: Literal["fast", "event"] = "fast"
    recompute: Literal["none", "full"] = "none"
    weight_dtype: Dtype = "bf16"
    dispatch_dtype: Dtype = "bf16"
    combine_dtype: Dtype = "bf16"
    tile_rows: int = Field(default=128, ge=1, le=4096)
    deduplicate: bool = False
    relay: Literal["auto", "off", "gain"] = "auto"
    overlap: Overlap = "none"
    restore: Literal["exposed", "overlapped"] = "exposed"
    warmup: Literal["exclude", "include"] = "exclude"


def _named_from(path: Path, base: str | Path | None) -> str:
    path = path.absolute()
    return str(path) if base is None else os.path.relpath(path, Path(base).absolute())


class Scenario(Strict):
    """One run: everything that decides its result.

    Attributes
    ----------
    name, description : str
    model : ModelShape
    rack : RackProfile
    ep : EPSpec
    workload : WorkloadSpec
    policies : list of PolicySpec
        With unique labels.
    engine : EngineSpec
    training : TrainingSpec or None
        Times whole training iterations; None times layers.
    serving : ServingSpec or None
        Serves the requests of the workload.
    stragglers : StragglerSpec or None
        What is slow or breaks; needs a training section.
    topology : TopologySpec or None
        How the GPUs are wired; None wires them as the rack usually is.
    seed : int
    draw : int
        0 runs with the nominal numbers of the model; k > 0 with the k-th draw of all that have a
        range (`ultraep_sim.model.draws`).
    """

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    model: Annotated[
        ModelShape, PlainValidator(presets.read_model), PlainSerializer(presets.write_model)
    ]
    rack: Annotated[
        RackProfile, PlainValidator(presets.read_rack), PlainSerializer(presets.write_rack)
    ]
    ep: EPSpec
    workload: WorkloadSpec
    policies: list[Annotated[PolicySpec, BeforeValidator(_policy_from_short_form)]] = Field(
        min_length=1, max_length=64
    )
    engine: EngineSpec = EngineSpec()
    training: TrainingSpec | None = None
    serving: ServingSpec | None = None
    stragglers: StragglerSpec | None = None
    topology: TopologySpec | None = None
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    draw: int = Field(default=0, ge=0, lt=1 << 31)

    _source_path: Path | None = PrivateAttr(default=None)

    @field_validator("policies")
    @classmethod
    def _labels_are_unique(cls, value: list[PolicySpec]) -> list[PolicySpec]:
        seen: set[str] = set()
        for spec in value:
            if spec.label in seen:
                raise ValueError(
                    f"two policies are labelled {spec.label!r}; give one a label of its own"
                )
            seen.add(spec.label)
        return value

    @model_validator(mode="after")
    def _slots_fit(self) -> Scenario:
        slots, experts = self.ep.slots_per_rank, self.model.num_experts
        if slots > experts:
            raise InputError(
                f"more redundant slots a rank than the {experts} experts of the model",
                place="ep.slots_per_rank",
                value=slots,
                remedy=f"give 0 to {experts}",
            )
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Scenario:
        stages, layers = self.ep.pipeline_stages, self.model.layers
        if stages > layers:
            raise InputError(
                f"more pipeline stages than the {layers} layers of the model",
                place="ep.pipeline_stages",
                value=stages,
                remedy=f"give 1 to {layers}",
            )
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> Scenario:
        training_fits(self)
        return self

    @model_validator(mode="after")
    def _serving_fits(self) -> Scenario:
        serving_fits(self)
        return self

    @property
    def source_path(self) -> Path | None:
        """The file it was read from; None for one built in Python."""
        return self._source_path

    @property
    def domain_size(self) -> int:
        """Ranks of one scale-up domain, as given or as the rack has them; at most ``ep.ranks``."""
        return presets.domain_size(self)

    @property
    def gpus_per_domain(self) -> int:
        """GPUs of a scale-up domain of the fabric: as given, or as the rack has them."""
        given = self.ep.domain_size
        return self.rack.domain_size if given is None else given

    @property
    def layout(self) -> EPLayout:
        """The expert-parallel layout."""
        return presets.layout_of(self)

    def to_dict(self, directory: str | Path | None = None) -> dict[str, Any]:
        """Return plain values in file order, defaults filled in.

        Parameters
        ----------
        directory : str or Path, optional
            Where the result will lie: the trace is named relative to it. By default relative to
            the file the scenario came from (as a person wrote it), so that the values do not
            depend on where the project lies; absolute where there is no such file.
        """
        values = self.model_dump(mode="json", exclude={"policies", "workload"})
        workload = self.workload.model_dump(mode="json", exclude_none=True)
        base = directory
        if base is None and self._source_path is not None:
            base = self._source_path.parent
        if self.workload.trace is not None:
            workload["trace"] = _named_from(self.workload.trace, base)
        requests = self.workload.requests
        if requests is not None and requests.arrivals.file is not None:
            workload["requests"]["arrivals"]["file"] = _named_from(requests.arrivals.file, base)
        order = ("name", "description", "model", "rack", "ep")
        return {
            **{key: values[key] for key in order},
            "workload": workload,
            "policies": [spec.written() for spec in self.policies],
            "engine": values["engine"],
            **{name: values[name] for name in _SECTIONS if values[name] is not None},
            "seed": values["seed"],
            **({"draw": self.draw} if self.draw else {}),
        }

    def to_yaml(self, directory: str | Path | None = None) -> str:
        """Return the resolved scenario as YAML that loads, from ``directory``, as the same one.

        Parameters
        ----------
        directory : str or Path, optional
            As in `to_dict`.
        """
        return yaml.safe_dump(
            self.to_dict(directory), sort_keys=False, allow_unicode=True, width=100
        )
