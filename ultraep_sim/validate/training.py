"""Published training throughput beside the plain law and beside the simulator, policy by policy.

What is taken from the published runs: the ideal throughput (it fixes the time outside the MoE
kernels) and the imbalance under ``none`` and ``eplb`` (they fix the load dynamics,
`ultraep_sim.validate.dynamics`). Everything else is predicted:

- plain law: ``T / T_ideal = 1 + s (I - 1)``, s the share of expert GEMM and all-to-all in the ideal
  step; once with the published imbalance of the policy, once with the simulated one;
- mechanisms: the layer times of the simulator on the replayed loads, with every decision,
  transfer, restore and gradient reduction a policy pays for;
- uneven: the same with what real routing costs beyond its imbalance
  (`ultraep_sim.validate.uneven`); once with the published imbalance (``uneven_published``), once
  with the simulated one;
- fitted: the same with one more number for each class of policies, fitted to the models that have
  all rows; ``left out`` is the error when the row's own model has no part in the fit.

Imbalance, not its variation, is all the plain law knows. Waiting of data-parallel replicas for the
slowest averages out over layers and micro-batches whose noise is independent, which the dynamics
assume; it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..engine.layer import LayerOptions, layer_times
from ..model import RackProfile, get_rack
from .dynamics import TILE_ROWS, Dynamics, PolicyLoads, fit, loads_of, stored
from .first_principles import ideal_rows
from .training_cases import TOKENS, Case, cases
from .uneven import OFF, Uneven, published

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]
Recompute = Literal["none", "recipe", "full"]

RACK = "paper-rack64"
SEQUENCE = 8192
#: Unknown but for Qwen3-235B; every row is also computed at these.
BAND = (4096, 8192, 16384)

#: Policies of one class share one fitted overhead; the others have none.
CLASSES = {
    "eplb": "history",
    "lplb": "program",
    "eplb_plus": "exact",
    "ultraep": "exact",
    "mosaic": "exact",
}
#: Policies without a published row that are predicted all the same.
EXTRA = ("eplb", "lplb", "eplb_plus", "ultraep", "mosaic")
#: The columns that predict throughput, weakest first.
MODELS = (
    "plain_published",
    "plain_simulated",
    "mechanisms",
    "uneven_published",
    "uneven",
    "fitted",
)

_COMPUTE = ("fwd_compute", "bwd_compute")
_ALL_TO_ALL = ("fwd_dispatch", "fwd_combine", "bwd_combine", "bwd_dispatch")


@dataclass(frozen=True)
class LayerCost:
    """Mean seconds of one MoE layer, forward and backward.

    Attributes
    ----------
    compute, all_to_all : float
        Expert GEMM; dispatch and combine.
    other : float
        Attention and all that balancing adds.
    """

    compute: float
    all_to_all: float
    other: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.all_to_all + self.other

    @property
    def moving(self) -> float:
        """The part that grows with imbalance."""
        return self.compute + self.all_to_all

    def uneven(self, factors: Uneven) -> LayerCost:
        """Scale compute and all-to-all."""
        return replace(
            self,
            compute=self.compute * factors.compute.si,
            all_to_all=self.all_to_all * factors.all_to_all.si,
        )


@dataclass(frozen=True)
class Prepared:
    """A case with its dynamics and what every policy made of its loads."""

    case: Case
    dynamics: Dynamics
    loads: dict[str, PolicyLoads]


def refit(progress: Progress | None = None) -> dict[str, Dynamics]:
    """Fit the dynamics of every published run anew, by model."""
    every = cases()
    found = {}
    for case, goal in zip(every, _goals(every), strict=True):
        found[case.shape.name] = fit(case, goal)
        if progress is not None:
            progress("fitting loads", len(found), len(every))
    return found


def prepare(
    progress: Progress | None = None, dynamics: Mapping[str, Dynamics] | None = None
) -> list[Prepared]:
    """Replay the loads of every published run through all policies.

    Parameters
    ----------
    progress : callable, optional
        Called as ``progress(what, done, total)``.
    dynamics : mapping of str to Dynamics, optional
        By model; by default what was fitted before. A model without one is fitted now.
    """
    every = cases()
    if dynamics is None:
        dynamics = stored()
        goals = zip(every, _goals(every), strict=True)
        if not all(
            c.shape.name in dynamics and dynamics[c.shape.name].fits(c, g) for c, g in goals
        ):
            dynamics = refit(progress)
    found: list[Prepared] = []
    for case in every:
        mine = dynamics[case.shape.name]
        policies = dict.fromkeys((*case.published, *EXTRA))
        found.append(Prepared(case, mine, loads_of(case, mine, tuple(policies))))
        if progress is not None:
            progress("replaying loads", len(found), len(every))
    return found


def _goals(every: Sequence[Case]) -> list[float | None]:
    """Return what EPLB shall leave in each case; None where that is published."""
    known = [case for case in every if "eplb" in case.published]
    left = [_excess_left(case) for case in known]
    return [None if case in known else _borrowed(case, left) for case in every]


def _excess_left(case: Case) -> float:
    """Part of the excess over balance that EPLB leaves."""
    none, eplb = (case.published[name].imbalance for name in ("none", "eplb"))
    assert none is not None  # noqa: S101  # `cases` leaves out models without it
    assert eplb is not None  # noqa: S101  # only asked of cases that have it
    return (eplb - 1) / (none - 1)


def _borrowed(case: Case, left: list[float]) -> float:
    """Imbalance under EPLB for a model without one: the others' share of the excess."""
    none = case.published["none"].imbalance
    assert none is not None  # noqa: S101  # as above
    return 1 + float(np.mean(left)) * (none - 1)


def layer_cost(
    case: Case, loads: PolicyLoads, rack: RackProfile, sequence: int, recompute: Recompute
) -> LayerCost:
    """Time the layers of one policy's records and take the mean."""
    full = recompute == "full" or (recompute == "recipe" and case.recomputes)
    options = LayerOptions(
        TOKENS,
        sequence_length=sequence,
        recompute="full" if full else "none",
        tile_rows=TILE_ROWS,
    )
    times = layer_times(case.shape, rack, loads.stats, loads.price, options)
    mean = {name: float(seconds.mean()) for name, seconds in times.critical.items()}
    compute = sum(mean[name] for name in _COMPUTE)
    moved = sum(mean[name] for name in _ALL_TO_ALL)
    if full:
        compute += mean["fwd_compute"]
        moved += mean["fwd_dispatch"] + mean["fwd_combine"]
    return LayerCost(compute, moved, float(times.layer_s.mean()) - compute - moved)


def table(
    prepared: Iterable[Prepared],
    *,
    sequence: int = SEQUENCE,
    recompute: Recompute = "none",
    factors: Uneven | None = None,
) -> list[Row]:
    """Predict every row at one sequence length.

    Parameters
    ----------
    prepared : iterable of Prepared
    sequence : int
    recompute : {"none", "recipe", "full"}
        What runs its forward again in the backward: no model, those whose public recipe says so,
        or all.
    factors : Uneven, optional
        What real routing costs beyond its imbalance; the published breakdown's by default.

    Returns
    -------
    list of dict
        One a model and policy. Throughput in TFLOPS per GPU; ``<column>_error`` is simulated over
        published less one, None where nothing is published.
    """
    factors = published() if factors is None else factors
    rows = [
        row
        for one in prepared
        for row in case_rows(one, get_rack(RACK), sequence, recompute, factors)
    ]
    _add_fitted(rows)
    for row in rows:
        for name in (*MODELS, "left_out"):
            row[f"{name}_error"] = _error(row[name], row["published"])
    return rows


def case_rows(
    one: Prepared, rack: RackProfile, sequence: int, recompute: Recompute, factors: Uneven
) -> list[Row]:
    """Predict the rows of one case, see `table`; nothing is fitted to them."""
    case = one.case
    step = case.ideal_s(sequence)
    costs = {
        name: layer_cost(case, loads, rack, sequence, recompute)
        for name, loads in one.loads.items()
    }
    base = costs["ideal"]
    share = case.layers * base.moving / step
    rows = []
    for policy, cost in costs.items():
        measured = case.published.get(policy)
        given = None if measured is None else measured.imbalance
        simulated = one.loads[policy].imbalance
        real = OFF if policy == "ideal" else factors
        slower = {
            "plain_published": None if given is None else share * (given - 1),
            "plain_simulated": share * (simulated - 1),
            "mechanisms": case.layers * (cost.total - base.total) / step,
            "uneven_published": _at_published(case, cost, base.uneven(real), base, given, step),
            "uneven": case.layers * (cost.uneven(real).total - base.total) / step,
        }
        rows.append(
            {
                "model": case.shape.name,
                "policy": policy,
                "published": None if measured is None else measured.tflops,
                "published_imbalance": given,
                "imbalance": simulated,
                **{name: _throughput(case, extra) for name, extra in slower.items()},
                "ideal_share": share,
                "outside_share": 1 - case.layers * base.total / step,
                "step_ms": step * 1e3,
                "layers": case.layers,
                "ideal_tflops": case.ideal_tflops,
                "noise": one.dynamics.noise,
            }
        )
    return rows


def _at_published(
    case: Case,
    cost: LayerCost,
    routed: LayerCost,
    base: LayerCost,
    imbalance: float | None,
    step: float,
) -> float | None:
    """Slow down as `uneven` does, but with the published imbalance in place of the simulated."""
    if imbalance is None:
        return None
    longer = routed.moving * imbalance + cost.other - base.total
    return case.layers * longer / step


def _throughput(case: Case, slower: float | None) -> float | None:
    return None if slower is None else case.ideal_tflops / (1 + slower)


def _add_fitted(rows: list[Row]) -> None:
    """Add the columns with one overhead a class, over all models and with one left out."""
    for row in rows:
        own = row["model"]
        row["class"] = CLASSES.get(row["policy"])
        row["overhead_us"] = _overhead(rows, row["class"], None)
        row["fitted"] = _with_overhead(row, row["overhead_us"])
        row["left_out"] = _with_overhead(row, _overhead(rows, row["class"], own))


def _overhead(rows: list[Row], wanted: str | None, without: str | None) -> float | None:
    """Microseconds a layer that mend the class best: the median of what each row lacks, >= 0."""
    if wanted is None:
        return 0.0
    lacks = [
        1e3 * row["step_ms"] * row["ideal_tflops"] * (1 / row["published"] - 1 / row["uneven"])
        / row["layers"]
        for row in rows
        if CLASSES.get(row["policy"]) == wanted
        and row["published"] is not None
        and row["model"] != without
    ]  # fmt: skip
    return max(0.0, float(np.median(lacks))) if lacks else None


def _with_overhead(row: Row, overhead_us: float | None) -> float | None:
    if overhead_us is None:
        return None
    extra = row["layers"] * overhead_us / (row["step_ms"] * 1e3)
    return float(row["ideal_tflops"] / (row["ideal_tflops"] / row["uneven"] + extra))


def _error(simulated: float | None, measured: float | None) -> float | None:
    return None if simulated is None or measured is None else simulated / measured - 1


def accuracy(rows: list[Row]) -> list[Row]:
    """Median and worst error of every column over rows that are predicted (not ``ideal``)."""
    found = []
    for name in (*MODELS, "left_out"):
        errors = [
            row[f"{name}_error"]
            for row in rows
            if row["policy"] != "ideal" and row[f"{name}_error"] is not None
        ]
        size = np.abs(errors)
        worst = errors[int(size.argmax())] if errors else None
        found.append(
            {
                "column": name,
                "rows": len(errors),
                "median_error": float(np.median(size)) if errors else None,
                "worst_error": worst,
            }
        )
    return found


def run(progress: Progress | None = None) -> dict[str, list[Row]]:
    """Compare everything published: the rows at the known sequence length, the error at all.

    Returns
    -------
    dict of str to list of dict
        ``rows``, see `table`; ``accuracy``, see `band`; ``ideal``, see
        `ultraep_sim.validate.first_principles`.
    """
    prepared = prepare(progress)
    return {"rows": table(prepared), "accuracy": band(prepared), "ideal": ideal_rows(progress)}


def band(prepared: Sequence[Prepared]) -> list[Row]:
    """Tell the errors at every sequence length of `BAND` and for everything that may be recomputed.

    Returns
    -------
    list of dict
        As `accuracy`, with ``sequence``, ``recompute``, and ``fits``: whether the layers of
        ``ideal`` fit into the published ideal step of every model.
    """
    found: list[Row] = []
    recomputes: tuple[Recompute, ...] = ("none", "recipe", "full")
    for recompute in recomputes:
        for sequence in BAND:
            rows = table(prepared, sequence=sequence, recompute=recompute)
            fits = min(row["outside_share"] for row in rows) >= 0
            told = {"sequence": sequence, "recompute": recompute, "fits": fits}
            found += [told | line for line in accuracy(rows)]
    return found
