"""Every training run that the settings name, published or not, from what may be known of it.

A run needs an ideal throughput (it fixes what lies outside the MoE layers), an imbalance without
balancing and one under EPLB (they fix the load). Where one is not published it is borrowed:

- ideal throughput: a whole iteration from first principles, times what the models with a published
  one are off by (geometric mean);
- imbalance without balancing: that of the model's family (the name up to the first hyphen), else
  the geometric mean of all;
- imbalance under EPLB: the mean share of the excess that EPLB leaves in the other runs.

A model whose shape is not public has loads but no times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...model import MODELS, ModelShape
from ...policies import available_policies
from ..dynamics import Dynamics, PolicyLoads, fit, loads_of, stored
from ..first_principles import iteration_tflops
from ..tables import Record, Tables, number
from ..training_cases import Case, Published, degrees_of

Progress = Callable[[str, int, int], None]

POLICIES = ("none", "eplb", "lplb", "eplb_plus", "ultraep", "ideal")
"""Those of the published runs."""

SLOTS = 2
"""Redundant slots a rank where the settings give none: as in the published training runs."""

STAGES = (1, 2, 4, 8)
"""Pipeline depths tried where the settings give none: the first that fits the memory."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes
    ----------
    case : Case
        With nothing published but what may be known.
    timed : bool
        Whether the model's shape is public.
    eplb_goal : float or None
        Imbalance under EPLB that is aimed at where none is published.
    assumed : str
        What was borrowed, for the provenance; empty where nothing was.
    """

    case: Case
    timed: bool
    eplb_goal: float | None
    assumed: str


def runs(inputs: Tables) -> list[Run]:
    """Return the runs of the settings, in their order."""
    known = {row["model"]: _published(inputs, row["model"]) for row in inputs["settings"]}
    skews = {model: one["none"].imbalance for model, one in known.items() if "none" in one}
    left = [share for one in known.values() if (share := _excess_left(one)) is not None]
    found = []
    for row in inputs["settings"]:
        case = _case(row, known[row["model"]])
        if case is None:
            continue
        notes = [] if degrees_of(row["training"]) else ["EP of serving"]
        if not row["redundant_slots_per_rank"].strip():
            notes.append(f"{SLOTS} slots")
        given = dict(case.published)
        skew, whose = _skew(row["model"], skews)
        if skew is None:
            continue
        if whose != row["model"]:
            notes.append(f"imbalance of none {skew:.2f} ({whose})")
            given["none"] = Published(None, skew)
        goal = None
        if "eplb" not in given or given["eplb"].imbalance is None:
            goal = 1 + float(np.mean(left)) * (skew - 1) if left else 1 + 0.25 * (skew - 1)
            notes.append(f"EPLB leaves {goal:.2f} (its share of the excess elsewhere)")
        case = replace(case, published=given)
        found.append(Run(case, row["model"] in MODELS, goal, "; ".join(notes)))
    return _with_ideals(found)


def _published(inputs: Tables, model: str) -> dict[str, Published]:
    return {
        row["policy"]: Published(number(row["tflops_per_gpu"]), number(row["mean_rank_imbalance"]))
        for row in inputs["training"]
        if row["model"] == model
    }


def _excess_left(given: Mapping[str, Published]) -> float | None:
    none, eplb = (given[name].imbalance if name in given else None for name in ("none", "eplb"))
    return None if none is None or eplb is None or none <= 1 else (eplb - 1) / (none - 1)


def _skew(model: str, skews: Mapping[str, float | None]) -> tuple[float | None, str]:
    """Return the imbalance without balancing, and whose it is."""
    own = skews.get(model)
    if own is not None:
        return own, model
    told = {name: value for name, value in skews.items() if value is not None}
    for name, value in told.items():
        if name.split("-")[0] == model.split("-")[0]:
            return value, name
    return (float(np.exp(np.mean(np.log(list(told.values()))))), "mean") if told else (None, "")


def _case(row: Record, given: Mapping[str, Published]) -> Case | None:
    """Return what the settings say of a run; None where they do not say enough."""
    degrees = degrees_of(row["training"]) or degrees_of(row["serving"])
    experts, top_k = number(row["experts"]), number(row["top_k"])
    slots = number(row["redundant_slots_per_rank"])
    if "EP" not in degrees or experts is None or top_k is None:
        return None
    # A model of no public shape borrows one: its loads depend on experts and top-k alone.
    shape: ModelShape = MODELS.get(row["model"], MODELS["deepseek-v3-671b"])
    shape = replace(shape, name=row["model"], num_experts=int(experts), top_k=int(top_k))
    return Case(
        shape,
        degrees["EP"],
        degrees.get("DP", 1),
        degrees.get("PP", 0 if "EP" not in degrees_of(row["training"]) else 1),
        SLOTS if slots is None else int(slots),
        "full recompute" in row.get("notes", ""),
        dict(given),
    )


def _with_ideals(found: list[Run]) -> list[Run]:
    """Give every timed run an ideal throughput and a pipeline depth."""
    scale, scaled = 1.0, False
    done = []
    for run in sorted(found, key=lambda run: _ideal(run.case) is None):
        case = run.case
        if run.timed and _ideal(case) is None:
            if not scaled:
                scale, scaled = _scale([one.case for one in found if one.timed]), True
            run = _first_principles(run, scale)
        done.append(run)
    order = [run.case.shape.name for run in found]
    return sorted(done, key=lambda run: order.index(run.case.shape.name))


def _ideal(case: Case) -> float | None:
    return case.published["ideal"].tflops if "ideal" in case.published else None


def _scale(every: list[Case]) -> float:
    """Divide published by first principles: geometric mean over the models that have both."""
    ratios = [
        ideal / ours
        for case in every
        if (ideal := _ideal(case)) is not None and (ours := iteration_tflops(case)) is not None
    ]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else 1.0


def _first_principles(run: Run, scale: float) -> Run:
    depths = STAGES if run.case.stages == 0 else (run.case.stages,)
    for stages in depths:
        case = replace(run.case, stages=stages)
        ours = iteration_tflops(case)
        if ours is not None:
            given = case.published | {"ideal": Published(ours * scale, 1.0)}
            notes = [run.assumed, f"PP{stages}"] if run.case.stages == 0 else [run.assumed]
            notes.append(f"ideal from first principles x {scale:.3f}")
            return replace(
                run, case=replace(case, published=given), assumed="; ".join(filter(None, notes))
            )
    return replace(run, timed=False, assumed=f"{run.assumed}; does not fit the memory")


def dynamics_of(run: Run) -> Dynamics:
    """Return the load dynamics of a run: as stored where they were fitted to the same goals."""
    kept = stored().get(run.case.shape.name)
    if kept is not None and kept.fits(run.case, run.eplb_goal):
        return kept
    return fit(run.case, run.eplb_goal)


def replayed(run: Run, extra: tuple[str, ...] = ()) -> tuple[Dynamics, dict[str, PolicyLoads]]:
    """Replay a run's loads under the published policies and others that are known."""
    dynamics = dynamics_of(run)
    known = available_policies()
    policies = tuple(dict.fromkeys((*POLICIES, *(name for name in extra if name in known))))
    return dynamics, loads_of(run.case, dynamics, policies)


def refit(inputs: Tables) -> dict[str, Dynamics]:
    """Fit the load dynamics of every run anew, by model."""
    return {run.case.shape.name: fit(run.case, run.eplb_goal) for run in runs(inputs)}
