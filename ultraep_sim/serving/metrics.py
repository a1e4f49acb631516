"""What became of the requests under one policy, in one row: latency, goodput, imbalance, cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .server import OUTCOMES, SERVED, Service
from .step import PARTS, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..scenario import Scenario
    from .requests import Requests

_MILLION = 1e6


def summarise(
    label: str, scenario: Scenario, requests: Requests, service: Service, log: Sequence[Step]
) -> dict[str, Any]:
    """Sum up one run.

    Parameters
    ----------
    label : str
        Of the policy.
    scenario : Scenario
    requests : Requests
    service : Service
    log : sequence of Step
        One a step of the service.

    Returns
    -------
    dict
        ``policy``; ``requests`` that count (those that arrive after the warm-up); shares of them by
        outcome; ``ttft_mean_s``, ``ttft_p50_s``, ``ttft_p90_s``, ``ttft_p99_s`` of those served;
        ``goodput_per_s``, the rate of those served inside the SLO's line, and ``slo_attainment``,
        their share; ``tokens_per_s``, prompt tokens of those served by the time in which they
        arrived; ``cost_per_million_tokens``; ``mean_in_system`` (time average); ``step_ms``,
        ``busy`` (share of time in steps); ``mean_rank_imbalance`` and
        ``attention_imbalance``, means over steps weighted by their tokens; ``share_PART``, what
        each part adds to the time in steps. None where there is nothing to tell.
    """
    spec, work = scenario.serving, scenario.workload.requests
    if spec is None or work is None:
        raise ValueError("only a scenario with requests has a service")
    counted = requests.arrival_s >= spec.warmup_s
    span = work.duration_s - spec.warmup_s
    served = counted & (service.outcome == SERVED)
    ttft = (service.end_s - requests.arrival_s)[served]
    good = int((ttft <= spec.slo.ttft_s).sum())
    total = int(counted.sum())
    tokens = int(requests.tokens[served].sum()) / span
    price = scenario.ep.ranks * spec.gpu_hour_price / 3600.0
    return {
        "policy": label,
        "requests": total,
        **_shares(service.outcome[counted]),
        "ttft_mean_s": float(ttft.mean()) if ttft.size else None,
        **{f"ttft_p{q}_s": _percentile(ttft, q) for q in (50, 90, 99)},
        "goodput_per_s": good / span,
        "slo_attainment": good / total if total else None,
        "tokens_per_s": tokens,
        "cost_per_million_tokens": price / tokens * _MILLION if tokens else None,
        "mean_in_system": mean_in_system(
            requests.arrival_s, service, spec.warmup_s, work.duration_s
        ),
        **_of_steps(service, log, spec.warmup_s, work.duration_s),
    }


def statistic(ttft: NDArray[np.float64], name: str) -> float:
    """Mean or 99th percentile of times to first token; 0 where nobody waited for one."""
    if not ttft.size:
        return 0.0
    return float(ttft.mean() if name == "mean" else np.percentile(ttft, 99))


def mean_in_system(
    arrival_s: NDArray[np.float64], service: Service, start_s: float, stop_s: float
) -> float:
    """Time average of the requests in the system between two times."""
    end = np.where(np.isnan(service.end_s), stop_s, service.end_s)
    stay = np.clip(end, start_s, stop_s) - np.clip(arrival_s, start_s, stop_s)
    return float(stay.sum() / (stop_s - start_s))


def _shares(outcome: NDArray[np.int8]) -> dict[str, float]:
    counts = np.bincount(outcome, minlength=len(OUTCOMES))
    names = [name.replace(" ", "_") for name in OUTCOMES]
    shares = counts / max(1, len(outcome))
    return {name: float(share) for name, share in zip(names, shares, strict=True)}


def _percentile(values: NDArray[np.float64], q: float) -> float | None:
    return float(np.percentile(values, q)) if values.size else None


def _of_steps(
    service: Service, log: Sequence[Step], start_s: float, stop_s: float
) -> dict[str, Any]:
    inside = (service.began_s >= start_s) & (service.began_s < stop_s)
    steps = [step for step, keep in zip(log, inside, strict=True) if keep]
    names = ("step_ms", "busy", "mean_rank_imbalance", "attention_imbalance")
    if not steps:
        return dict.fromkeys((*names, *(f"share_{part}" for part in PARTS)))
    seconds = np.array([step.seconds for step in steps])
    weight = np.array([step.tokens for step in steps], np.float64)
    # The last step may run on after the time that counts.
    ends = np.minimum(service.began_s[inside] + seconds, stop_s)
    return {
        "step_ms": float(seconds.mean()) * 1e3,
        "busy": float((ends - service.began_s[inside]).sum() / (stop_s - start_s)),
        "mean_rank_imbalance": float(np.average([s.imbalance for s in steps], weights=weight)),
        "attention_imbalance": float(
            np.average([s.attention_imbalance for s in steps], weights=weight)
        ),
        **{
            f"share_{part}": sum(getattr(s, f"{part}_s") for s in steps) / float(seconds.sum())
            for part in PARTS
        },
    }
