"""What is fitted of the published serving runs: mean prompt length, and load dynamics.

One mean length a workload, so that ``ideal`` meets the line at its published rate: the only number
of the service time that is fitted, for lengths are not published. One imbalance a run, so that
batches under ``none`` have the published one. And in the variant `FITTED` alone the length of
bursts, so that ``eplb`` has the published imbalance: how long a batch resembles the last ones
decides what a placement from history is worth, and nothing else that is published tells it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..errors import InputError
from ..scenario import Scenario
from ..serving.capacity import Point, measure
from ..serving.setup import make_setup
from .serving_cases import LAYERS, SHORTEST, Case, Lengths, Variant, scenario_of

STORED = Path(__file__).with_name("fitted_serving.csv")

#: Of the requests, when a request comes in a burst of its domain: nearly always.
GAP_S = 0.5

ONE = Variant("one domain", 1, 0.3, None, None, "all requests are alike but for their own noise")
MIX = Variant("steady mix", 12, 0.3, None, None, "many domains at once; batches average them")
#: Six settings were tried on the STEM run before this one was kept.
BURSTS = Variant(
    "bursts", 6, 0.3, GAP_S, 5.0, "prompts come set by set, one domain after the other", ("stem",)
)
#: At a correlation of 0.3 no length of bursts gives the published imbalance of eplb: 2.4 at most.
#: Hence 0.05, still inside what recorded loads show (0 to 0.5). Nine settings were tried on each
#: workload.
FITTED = Variant(
    "fitted", 12, 0.05, GAP_S, 5.0, "unrelated domains; the bursts' length fits the eplb imbalance",
    ("stem", "mixed"),
)  # fmt: skip
VARIANTS = (ONE, MIX, BURSTS, FITTED)
#: Variants whose rates are searched, and not the imbalances alone.
SEARCHED = (ONE, BURSTS, FITTED)

#: Requests per second of ideal where nothing is published: where its search begins.
START = {("glm-4.7-358b", "stem"): 170.0, ("glm-4.7-358b", "mixed"): 75.0}

_CLOSE = 0.01  # relative, of an imbalance; one seed strays by as much
_TRIALS = 7
_LONGEST_BURST, _SHORTEST_BURST = 20.0, 0.5
_LONGEST_MEAN = 8000.0


@dataclass(frozen=True)
class Fitted:
    """What a case is simulated with.

    Attributes
    ----------
    mean_tokens : float
        Of the distribution of prompt lengths.
    imbalance : float
        `RoutingSpec.imbalance`.
    lasting_s : float or None
        Mean length of a burst.
    """

    mean_tokens: float
    imbalance: float
    lasting_s: float | None


def fit_mean(case: Case, lengths: Lengths | None = None) -> float:
    """Return the mean prompt length with which ``ideal`` just meets the line at its rate.

    Parameters
    ----------
    case : Case
        With a published rate of ``ideal``.
    lengths : Lengths, optional
        Other than the assumed ones.

    Raises
    ------
    InputError
        Even short prompts miss the line, or even long ones meet it.

    Notes
    -----
    Under ``ideal`` all layers and all domains take the same time, so one of each is simulated.
    """
    rate = case.rate("ideal")
    if rate is None:
        raise ValueError("a mean length is fitted to a published rate of ideal")

    def meets(mean: float) -> bool:
        found = Fitted(mean, case.imbalance("none") or 1.0, None)
        return serve(case, ONE, found, "ideal", rate, layers=1, lengths=lengths, stop=True).meets

    low, high = 500.0, _LONGEST_MEAN
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if meets(middle) else (low, middle)
        if high / low <= 1.005 and low == 500.0 and not meets(low):
            low, high = float(SHORTEST.value), low  # the bound was no answer: look below it
    if high == _LONGEST_MEAN and meets(high):
        raise InputError(
            "every mean prompt length meets the line at the published rate of ideal",
            place=f"{case.model}, {case.workload}",
            value=f"{high:.0f} tokens",
            remedy="lengthen the longest prompt or raise sigma",
        )
    if not meets(low):
        raise InputError(
            "no mean prompt length meets the line at the published rate of ideal",
            place=f"{case.model}, {case.workload}",
            value=f"{low:.0f} tokens",
            remedy="shorten the longest prompt or lower sigma",
        )
    return low


def fit_all(
    every: Sequence[Case],
    variants: Sequence[Variant] = VARIANTS,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[tuple[Case, Variant, Fitted]]:
    """Fit every run; a model without a rate takes lengths and bursts of the one that has them.

    Parameters
    ----------
    every : sequence of Case
        Those with a published rate of ``ideal`` before those without, a workload at a time.
    variants : sequence of Variant
    progress : callable, optional
        Called as ``progress(what, done, total)``.
    """
    told = progress or (lambda what, done, total: None)
    known = [case for case in every if case.rate("ideal") is not None]
    means = {case.workload: fit_mean(case) for case in reversed(known)}
    wanted = [
        (case, variant)
        for case in sorted(every, key=lambda case: case.rate("ideal") is None)
        for variant in variants
        if case.workload in means and (variant is not MIX or case in known)
    ]
    found: list[tuple[Case, Variant, Fitted]] = []
    bursts: dict[str, float | None] = {}
    for case, variant in wanted:
        used = variant
        if variant is FITTED and case not in known:
            used = replace(variant, lasting_s=bursts[case.workload])
        one = fit_dynamics(case, used, means[case.workload], start_rate(case))
        if variant is FITTED and case in known:
            bursts.setdefault(case.workload, one.lasting_s)
        found.append((case, variant, one))
        told("fitting requests", len(found), len(wanted))
    return found


def start_rate(case: Case) -> float:
    """Return requests per second of ``ideal``: as published, or where its search begins."""
    return case.rate("ideal") or START.get((case.model, case.workload), 100.0)


def fit_dynamics(case: Case, variant: Variant, mean_tokens: float, ideal_rate: float) -> Fitted:
    """Find the imbalance, and in `FITTED` the length of bursts, that the published ones ask for.

    Parameters
    ----------
    case : Case
    variant : Variant
    mean_tokens : float
    ideal_rate : float
        Requests per second of ``ideal``.
    """
    none, eplb = case.imbalance("none"), case.imbalance("eplb")
    if none is None:
        raise ValueError("load dynamics are fitted to a published imbalance of none")
    # A burst is far more skewed than the mix; begin below, where any routing can be drawn.
    start = none if variant.lasting_s is None else 1 + 0.4 * (none - 1)
    found = Fitted(mean_tokens, start, variant.lasting_s)
    best, least = found, math.inf
    for _ in range(_TRIALS):
        rate = first_rate(case, "none", ideal_rate)
        before = serve(case, variant, found, "none", rate).mean_rank_imbalance
        missed = abs(before / none - 1)
        lasting = found.lasting_s
        if variant.name == FITTED.name and lasting is not None and eplb is not None:
            rate = first_rate(case, "eplb", ideal_rate)
            after = serve(case, variant, found, "eplb", rate).mean_rank_imbalance
            missed = max(missed, abs(after / eplb - 1))
            # Longer bursts leave history more wrong, as long as it does not see a whole one.
            steeper = ((eplb - 1) / (none - 1) * (before - 1) / (after - 1)) ** 3
            lasting = min(_LONGEST_BURST, max(_SHORTEST_BURST, lasting * steeper))
        if missed < least:
            best, least = found, missed
        if least < _CLOSE:
            break
        excess = (none - 1) / (before - 1)
        found = replace(
            found, imbalance=max(1.3, 1 + (found.imbalance - 1) * excess), lasting_s=lasting
        )
    return best


def first_rate(case: Case, policy: str, ideal_rate: float) -> float:
    """Return about the rate at the line: by the plain law, from rough imbalances.

    A search begins there and batches are measured there. Published rates of anything but ``ideal``
    are what is judged, so they have no part in it.
    """
    rough = {"ideal": 1.0, "none": case.imbalance("none") or 3.0, "eplb": 2.0, "eplb_plus": 1.3}
    return ideal_rate / (1 + 0.4 * (rough.get(policy, 1.15) - 1))


def serve(
    case: Case,
    variant: Variant,
    found: Fitted,
    policy: str,
    rate_per_s: float,
    *,
    layers: int = LAYERS,
    lengths: Lengths | None = None,
    stop: bool = False,
) -> Point:
    """Serve a case at one rate under one policy.

    Parameters
    ----------
    case : Case
    variant : Variant
    found : Fitted
    policy : str
    rate_per_s : float
    layers : int
    lengths : Lengths, optional
    stop : bool
        Whether the run may end once it is certain to miss the line.
    """
    scenario = setting(case, variant, found, policy, rate_per_s, layers=layers, lengths=lengths)
    return measure(make_setup(scenario), policy, rate_per_s, stop=stop)


def setting(
    case: Case,
    variant: Variant,
    found: Fitted,
    policy: str,
    rate_per_s: float,
    *,
    layers: int = LAYERS,
    lengths: Lengths | None = None,
) -> Scenario:
    """Return the scenario of one policy with what was fitted."""
    used = replace(variant, lasting_s=found.lasting_s)
    return scenario_of(
        case, used, mean_tokens=found.mean_tokens, imbalance=found.imbalance,
        rate_per_s=rate_per_s, policies=[policy], layers=layers, lengths=lengths,
    )  # fmt: skip


@lru_cache(maxsize=1)
def stored() -> dict[tuple[str, str, str], Fitted]:
    """Return what was fitted, by model, workload and variant; docs/refresh_serving.py writes it."""
    with STORED.open(newline="", encoding="utf-8") as file:
        return {
            (row["model"], row["workload"], row["variant"]): Fitted(
                float(row["mean_tokens"]),
                float(row["imbalance"]),
                float(row["lasting_s"]) if row["lasting_s"] else None,
            )
            for row in csv.DictReader(file)
        }


def store(found: Iterable[tuple[Case, Variant, Fitted]]) -> None:
    """Write what was fitted where `stored` reads it."""
    with STORED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "workload", "variant", "mean_tokens", "imbalance", "lasting_s"))
        for case, variant, one in found:
            lasting = "" if one.lasting_s is None else f"{one.lasting_s:.3f}"
            writer.writerow(
                (case.model, case.workload, variant.name, f"{one.mean_tokens:.1f}",
                 f"{one.imbalance:.4f}", lasting)
            )  # fmt: skip
    stored.cache_clear()
