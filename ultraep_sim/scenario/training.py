"""The training section of a scenario: what makes whole iterations of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ultraep_sim.errors import InputError
from ultraep_sim.scenario.strict import Strict

if TYPE_CHECKING:
    from ultraep_sim.scenario.schema import Scenario


class TrainingSpec(Strict):
    """How layers become iterations. Stages and replicas stand in ``ep``.

    Attributes
    ----------
    micro_batches : int
        Of each replica in one iteration (global batch).
    schedule : {"1f1b", "interleaved"}
    virtual_stages : int
        Chunks of layers a stage holds; more than one is interleaved.
    stage_layers : tuple of int or None
        Layers (dense ones too) of each virtual stage, in order of the model; None divides them
        evenly, the first stages taking one more.
    grad_sync : {"overlapped", "exposed"}
        Whether data-parallel gradient sync runs behind the last backward.
    layer_map : {"cycle", "stretch"}
        Which recorded layer stands for each MoE layer where fewer are recorded. ``cycle`` repeats
        the recorded ones in turn, so that every stage sees them all; ``stretch`` gives neighbours
        the same one, so that a stage's layers are alike. Pipelines amplify only what is correlated.
    replica_loads : {"own", "shared"}
        Whether every replica has micro-batches of its own in the trace, or all see the same ones
        (a shorter trace is enough, and replicas never wait for each other because of load).
    iterations : int or None
        At most so many are timed; None for all the trace has.
    """

    micro_batches: int = Field(ge=1, le=65_536)
    schedule: Literal["1f1b", "interleaved"] = "1f1b"
    virtual_stages: int = Field(default=1, ge=1, le=64)
    stage_layers: tuple[int, ...] | None = Field(default=None, strict=False, min_length=1)
    grad_sync: Literal["overlapped", "exposed"] = "overlapped"
    layer_map: Literal["cycle", "stretch"] = "cycle"
    replica_loads: Literal["own", "shared"] = "own"
    iterations: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _schedule_fits(self) -> TrainingSpec:
        if (self.schedule == "interleaved") != (self.virtual_stages > 1):
            raise ValueError("interleaved goes with virtual_stages of 2 or more, 1f1b with 1")
        if self.stage_layers is not None and min(self.stage_layers) < 1:
            raise ValueError("every virtual stage needs a layer")
        return self


def training_fits(scenario: Scenario) -> None:
    """Refuse a training section that contradicts the rest of its scenario.

    Raises
    ------
    InputError
    """
    spec, engine = scenario.training, scenario.engine
    if spec is None:
        if engine.overlap in ("two_batch", "dualpipe"):
            raise _refused(
                "hides work of one micro-batch behind another's, and a layer alone has one",
                "engine.overlap",
                engine.overlap,
                "add a training section, or use none or shared_expert",
            )
        if scenario.stragglers is not None:
            raise _refused(
                "they slow down iterations, and this scenario times single layers",
                "stragglers",
                sorted(slow_keys(scenario)),
                "add a training section",
            )
        if engine.mode == "event":
            raise _refused(
                "arranges iterations, and this scenario times single layers",
                "engine.mode",
                engine.mode,
                "add a training section, or use fast",
            )
        return
    if scenario.workload.phase == "prefill":
        raise _refused("has no backward", "workload.phase", "prefill", "drop training:")
    _micro_batches_fit(scenario, spec)
    _engine_fits(scenario)
    stages = scenario.ep.pipeline_stages * spec.virtual_stages
    layers = scenario.model.layers
    if stages > layers:
        raise _refused(
            f"makes {stages} virtual stages of {layers} layers",
            "training.virtual_stages",
            spec.virtual_stages,
            "lower it or ep.pipeline_stages",
        )
    given = spec.stage_layers
    if given is not None and (len(given) != stages or sum(given) != layers):
        raise _refused(
            f"must list {stages} counts that sum to the {layers} layers of the model",
            "training.stage_layers",
            list(given),
            "change it, or leave it out for an even division",
        )


def _micro_batches_fit(scenario: Scenario, spec: TrainingSpec) -> None:
    count, stages = spec.micro_batches, scenario.ep.pipeline_stages
    pair = 2 if scenario.engine.overlap == "two_batch" else 1
    unit = pair * (stages if spec.schedule == "interleaved" else 1)
    if count % unit:
        raise _refused(
            f"must be a multiple of {unit} for {spec.schedule} with overlap "
            f"{scenario.engine.overlap}",
            "training.micro_batches",
            count,
            f"give {max(1, count // unit) * unit}",
        )
    if scenario.engine.overlap == "dualpipe" and spec.schedule != "1f1b":
        raise _refused("goes with 1f1b", "engine.overlap", "dualpipe", "use schedule: 1f1b")


def slow_keys(scenario: Scenario) -> list[str]:
    """Names of the straggler mechanisms a scenario switches on."""
    slow = scenario.stragglers
    return [] if slow is None else [name for name in type(slow).model_fields if getattr(slow, name)]


def _engine_fits(scenario: Scenario) -> None:
    slow, ep = scenario.stragglers, scenario.ep
    if slow is None:
        return
    try:
        slow.check(ep.data_parallel, ep.pipeline_stages, ep.ranks, scenario.gpus_per_domain)
    except InputError as error:
        raise _refused(
            error.problem, f"stragglers.{error.place}", error.value, error.remedy or ""
        ) from error
    planes = slow.dead_planes is not None
    if scenario.domain_size < ep.ranks and (planes or slow.slow_links):
        raise _refused(
            "slow scale-up links are timed for groups inside one domain only: across domains the "
            "NICs bind",
            "stragglers.dead_planes" if planes else "stragglers.slow_links",
            f"domains of {scenario.domain_size} for groups of {ep.ranks}",
            "leave it out, or use smaller groups",
        )
    if scenario.engine.mode == "event":
        return
    midway = {"dead_planes.at_s": slow.dead_planes is not None and bool(slow.dead_planes.at_s)}
    hot = slow.thermal
    midway["thermal"] = hot is not None and bool(hot.rate_per_gpu_hour or hot.episodes)
    for key, set_ in midway.items():
        if set_:
            raise _refused(
                "these spells begin or end inside an iteration, which the fast path cannot time",
                f"stragglers.{key}",
                scenario.engine.mode,
                "use engine.mode: event",
            )


def _refused(problem: str, place: str, value: Any, remedy: str) -> InputError:
    return InputError(problem, place=place, value=value, remedy=remedy)
