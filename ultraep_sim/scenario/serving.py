"""The serving section of a scenario: how a rack serves the requests of its workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ultraep_sim.errors import InputError
from ultraep_sim.scenario.strict import Strict

if TYPE_CHECKING:
    from ultraep_sim.scenario.schema import Scenario


class SLOSpec(Strict):
    """What service is good enough.

    Attributes
    ----------
    ttft_s : float
        Line for the time to first token.
    statistic : {"mean", "p99"}
        What of it must stay below the line; `capacity` searches by it.
    """

    ttft_s: float = Field(default=3.0, gt=0.0)
    statistic: Literal["mean", "p99"] = "mean"


class CancelSpec(Strict):
    """Requests that their users give up, queued or in the middle of their prefill.

    Attributes
    ----------
    share : float
        Share of requests that would be given up.
    after_s : float
        Mean patience (exponential); a request that got its first token sooner is served.
    """

    share: float = Field(ge=0.0, le=1.0)
    after_s: float = Field(gt=0.0)


class SparseSpec(Strict):
    """Sparse prefill attention after SampleAttention (arXiv 2406.15486).

    Attributes
    ----------
    kept : float
        Share of the scores that heads with sparse structure keep.
    dense_heads : float
        Share of heads that stay dense.
    sampled_rows : float
        Share of query rows scored in full, once, to find what to keep.
    overhead : float
        Factor on what selecting costs beyond that (`ultraep_sim.compute.prefill_attention`); 0 is
        free.
    """

    kept: float = Field(default=0.1, gt=0.0, le=1.0)
    dense_heads: float = Field(default=0.0, ge=0.0, le=1.0)
    sampled_rows: float = Field(default=0.05, ge=0.0, le=1.0)
    overhead: float = Field(default=1.0, ge=0.0, le=100.0)


class ServingSpec(Strict):
    """A prefill server: data-parallel attention on every rank, experts over all of them.

    Attributes
    ----------
    token_budget : int
        Tokens a rank prefills in one step, of one request or of several.
    router : {"least_tokens", "round_robin", "random"}
        How an arriving request chooses its attention rank.
    timeout_s : float or None
        A request still without its first token after so long is dropped.
    cancelled : CancelSpec or None
    max_queue : int or None
        Requests that may wait in all; the next one is refused.
    slo : SLOSpec
    sparse : SparseSpec or None
        None: dense attention.
    kv_dtype : {"bf16", "fp8"}
        Of the KV cache that a request fills until it leaves for decoding.
    overhead_ms : float
        Of every step, whatever is in it: scheduling, sampling, launches.
    draw : {"tokens", "expected"}
        Whether every token chooses experts for itself, or expert loads are their expectation with
        the noise of so many tokens and a source's share of them is the expected one.
    sample_layers : int or None
        MoE layers that are simulated, evenly spread; each stands for its neighbours. None: all.
    warmup_s : float
        Requests that arrive before it count nowhere.
    gpu_hour_price : float
        Price of a GPU hour in the currency of your choice.
    """

    token_budget: int = Field(default=4096, ge=1, le=1 << 20)
    router: Literal["least_tokens", "round_robin", "random"] = "least_tokens"
    timeout_s: float | None = Field(default=None, gt=0.0)
    cancelled: CancelSpec | None = None
    max_queue: int | None = Field(default=None, ge=1)
    slo: SLOSpec = SLOSpec()
    sparse: SparseSpec | None = None
    kv_dtype: Literal["bf16", "fp8"] = "bf16"
    overhead_ms: float = Field(default=5.0, ge=0.0, le=1000.0)
    draw: Literal["tokens", "expected"] = "expected"
    sample_layers: int | None = Field(default=8, ge=1)
    warmup_s: float = Field(default=20.0, ge=0.0)
    gpu_hour_price: float = Field(default=4.0, ge=0.0)

    @model_validator(mode="after")
    def _something_counts(self) -> ServingSpec:
        if self.timeout_s is not None and self.timeout_s < self.slo.ttft_s:
            raise ValueError("timeout_s below slo.ttft_s: everything slow would vanish")
        return self


def serving_fits(scenario: Scenario) -> None:
    """Refuse a serving section that contradicts the rest of its scenario.

    Raises
    ------
    InputError
    """
    requests, spec = scenario.workload.requests, scenario.serving
    if (requests is None) != (spec is None):
        has, lacks = ("workload.requests", "serving")[:: 1 if spec is None else -1]
        raise _refused(
            f"{has} is given and {lacks} is not",
            has,
            f"{has} alone",
            "give both (serving: {} takes its defaults), or neither",
        )
    if requests is None or spec is None:
        return
    for name in ("training", "stragglers", "topology"):
        if getattr(scenario, name) is not None:
            raise _refused(
                "does not go with serving", name, f"{name} and serving", f"leave {name} out"
            )
    if scenario.workload.phase == "training":
        raise _refused("serving is prefill", "workload.phase", "training", "leave phase out")
    if scenario.ep.pipeline_stages != 1 or scenario.ep.data_parallel != 1:
        raise _refused(
            "one expert-parallel group serves; put a load balancer before several",
            "ep.pipeline_stages",
            (scenario.ep.pipeline_stages, scenario.ep.data_parallel),
            "use one stage and one replica",
        )
    if scenario.engine.overlap not in ("none", "shared_expert"):
        raise _refused(
            "hides work of one micro-batch behind another's, and a step has one",
            "engine.overlap",
            scenario.engine.overlap,
            "use none or shared_expert",
        )
    if scenario.engine.mode == "event":
        raise _refused(
            "arranges training iterations; a server's steps are events already",
            "engine.mode",
            scenario.engine.mode,
            "use fast",
        )
    if spec.warmup_s >= requests.duration_s:
        raise _refused(
            "nothing is left to count",
            "serving.warmup_s",
            spec.warmup_s,
            f"stay below workload.requests.duration_s ({requests.duration_s:g})",
        )
    if spec.sample_layers is not None and spec.sample_layers > scenario.model.moe_layers:
        raise _refused(
            f"more than the {scenario.model.moe_layers} MoE layers of the model",
            "serving.sample_layers",
            spec.sample_layers,
            "lower it, or write null for all",
        )


def _refused(problem: str, place: str, value: Any, remedy: str) -> InputError:
    return InputError(problem, place=place, value=value, remedy=remedy)
