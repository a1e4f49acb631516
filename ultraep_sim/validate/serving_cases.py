"""The published serving runs, and the scenario that stands for one of them.

Published are model, parallelism, slots, chunk, arrivals, cadence and the line for the mean time to
first token. Prompt lengths are published as a range, and nothing is said of how requests depend on
each other. Both are assumed here; what of them is fitted, `ultraep_sim.validate.serving_fit` finds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..model import MODELS
from ..model.provenance import assumed
from ..scenario import Scenario
from ..scenario.load import scenario_from_dict
from .tables import Tables, load_tables, number

RACK = "paper-rack64"
POLICIES = ("none", "eplb", "eplb_plus", "ultraep", "ideal")
CADENCE_STEPS = 50
"""Batches between two placements of EPLB (published)."""

CHUNK = 4096
"""Tokens of a chunk, and of a rank in a step (published)."""

#: "Hundreds to tens of thousands" of tokens is published; the shape of the distribution is not.
SIGMA = assumed(
    1.2,
    "1",
    "log lengths of recorded prompts: Azure chat 0.99, Mooncake 1.20, Azure code 1.36",
    1,
    1.4,
)
SHORTEST = assumed(100, "1", "hundreds of tokens is published", 32, 300)
LONGEST = assumed(32_768, "1", "tens of thousands of tokens is published", 16_384, 98_304)

#: Of every run: short, for a comparison has hundreds of them. Arrivals of two minutes let a server
#: meet the line for a mean at a rate a few per cent above what it can bear for ever; every policy
#: alike, so ratios of rates keep little of it.
DURATION_S, WARMUP_S, LAYERS = 120.0, 20.0, 4


@dataclass(frozen=True)
class Published:
    """What was measured for one policy; None where it was not.

    Attributes
    ----------
    imbalance : float or None
        Mean rank imbalance.
    rate_per_s : float or None
        Largest request rate whose mean time to first token meets the line (pixel read, +-2 %).
    """

    imbalance: float | None
    rate_per_s: float | None


@dataclass(frozen=True)
class Case:
    """One published serving run.

    Attributes
    ----------
    model, workload : str
    ranks, slots : int
        Expert-parallel ranks, redundant slots a rank.
    ttft_s : float
        Line for the mean time to first token.
    published : dict of str to Published
        By policy, in the order of the file.
    """

    model: str
    workload: str
    ranks: int
    slots: int
    ttft_s: float
    published: dict[str, Published]

    def imbalance(self, policy: str) -> float | None:
        """Return the published imbalance of a policy; None where there is none."""
        found = self.published.get(policy)
        return None if found is None else found.imbalance

    def rate(self, policy: str) -> float | None:
        """Return the published rate of a policy; None where there is none."""
        found = self.published.get(policy)
        return None if found is None else found.rate_per_s


@dataclass(frozen=True)
class Variant:
    """What is assumed of how the requests of a moment resemble each other.

    Attributes
    ----------
    name : str
    domains : int
        Of equal share in the mix.
    correlation : float
        Of log popularity between two domains.
    every_s, lasting_s : float or None
        Mean time between and length of bursts, in which one domain has `BURST_SHARE` of the
        requests; None for a mix that stays.
    why : str
    chosen_on : tuple of str
        Workloads whose published rows were looked at when this setting was chosen among others:
        what it says of them is no prediction.
    """

    name: str
    domains: int
    correlation: float
    every_s: float | None
    lasting_s: float | None
    why: str
    chosen_on: tuple[str, ...] = ()


BURST_SHARE = 0.95


@dataclass(frozen=True)
class Lengths:
    """What is assumed of prompt lengths but their mean, and of the router that spreads them."""

    sigma: float = SIGMA.value
    longest: int = int(LONGEST.value)
    router: Literal["least_tokens", "round_robin", "random"] = "least_tokens"


def cases(tables: Tables | None = None) -> list[Case]:
    """Return the published runs that can be set up, in the order of the file.

    Parameters
    ----------
    tables : Tables, optional
        The tables that ship by default.
    """
    tables = load_tables() if tables is None else tables
    settings = {row["model"]: row for row in tables["settings"]}
    found: dict[tuple[str, str], Case] = {}
    for row in tables["serving"]:
        key = (row["model"], row["workload"])
        setting: Mapping[str, str] = settings.get(row["model"], {})
        degree = re.fullmatch(r"EP(\d+)", setting.get("serving", "").strip())
        slots = number(setting.get("redundant_slots_per_rank", ""))
        line = number(row["slo_mean_ttft_s"])
        if row["model"] not in MODELS or degree is None or slots is None or line is None:
            continue
        case = found.setdefault(key, Case(*key, int(degree[1]), int(slots), line, {}))
        case.published[row["policy"]] = Published(
            number(row["mean_rank_imbalance"]), number(row["requests_per_second_at_slo"])
        )
    return [case for case in found.values() if case.imbalance("none") is not None]


def scenario_of(
    case: Case,
    variant: Variant,
    *,
    mean_tokens: float,
    imbalance: float,
    rate_per_s: float,
    policies: Sequence[str] = POLICIES,
    layers: int = LAYERS,
    lengths: Lengths | None = None,
    seed: int = 0,
) -> Scenario:
    """Return the scenario of a published run.

    Parameters
    ----------
    case : Case
    variant : Variant
    mean_tokens : float
        Of the prompts, before they are cut.
    imbalance : float
        Of a full batch of the mix without balancing.
    rate_per_s : float
    policies : sequence of str
    layers : int
        That are simulated.
    lengths : Lengths, optional
        Of the prompts, and who gets them; the assumed ones by default.
    seed : int
    """
    lengths = Lengths() if lengths is None else lengths
    domains: dict[str, Any] = {
        "mix": {f"{case.workload} {i + 1}": 1.0 for i in range(variant.domains)}
    }
    if variant.lasting_s is not None:
        domains["bursts"] = {
            "every_s": variant.every_s, "lasting_s": variant.lasting_s, "share": BURST_SHARE,
        }  # fmt: skip
    return scenario_from_dict(
        {
            "name": f"{case.model}-{case.workload}",
            "model": case.model,
            "rack": RACK,
            "ep": {"ranks": case.ranks, "slots_per_rank": case.slots},
            "workload": {
                "phase": "prefill",
                "requests": {
                    "arrivals": {"rate_per_s": rate_per_s},
                    "duration_s": DURATION_S,
                    "lengths": {
                        "mean": mean_tokens,
                        "sigma": lengths.sigma,
                        "shortest": int(SHORTEST.value),
                        "longest": lengths.longest,
                    },
                    "domains": domains,
                    "routing": {
                        "imbalance": imbalance, "domain_correlation": variant.correlation,
                    },
                },
            },
            "serving": {
                "token_budget": CHUNK,
                "slo": {"ttft_s": case.ttft_s, "statistic": "mean"},
                "sample_layers": layers,
                "warmup_s": WARMUP_S,
                "router": lengths.router,
            },
            # The published rows were taken with next to no cost of migration.
            "policies": [
                {"name": "eplb", "cadence_steps": CADENCE_STEPS, "migration": "free"}
                if name == "eplb"
                else name
                for name in policies
            ],
            "seed": seed,
        }
    )  # fmt: skip
