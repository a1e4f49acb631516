"""What the report of a sweep is about: the headline metric, and which axes one may choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ..errors import InputError
from ..scenario.strict import Strict

Better = Literal["lower", "higher"]

#: Which way the known result columns are better.
BETTER: Mapping[str, Better] = {
    "iteration_ms": "lower",
    "layer_time_ms": "lower",
    "tflops_per_gpu": "higher",
    "fraction_of_ideal": "higher",
    "speedup_over_none": "higher",
    "mean_rank_imbalance": "lower",
    "p99_rank_imbalance": "lower",
    "exposed_overhead_us_per_layer": "lower",
    "replicas_per_plan": "lower",
    "activation_peak_ratio": "lower",
    "communication_exposed": "lower",
    "pipeline_idle": "lower",
    "sync_exposed": "lower",
    "goodput": "higher",
    "restarts": "lower",
    "campaign_h": "lower",
    "memory_GB": "lower",
    "goodput_per_s": "higher",
    "slo_attainment": "higher",
    "tokens_per_s": "higher",
    "ttft_mean_s": "lower",
    "ttft_p99_s": "lower",
    "cost_per_million_tokens": "lower",
}
_HEADLINES = ("iteration_ms", "layer_time_ms", "goodput_per_s")
# What a person sets when he starts a job; the rack, the model and the load are given to him.
_CHOSEN = re.compile(
    r"^(policies|training|engine|ep)\b|slot|cadence|window|\bep\b|ep_?size|expert.parallel"
    r"|micro_?batch|recompute|overlap",
    re.IGNORECASE,
)
_GIVEN = re.compile(r"domain_size|straggler|drift|\bload\b", re.IGNORECASE)


class ReportSpec(Strict):
    """The key ``report:`` of a sweep file; every part of it has a default.

    Attributes
    ----------
    title : str
        The question of the sweep where it is empty.
    metric : str
        Headline: a result column. The first of ``iteration_ms``, ``layer_time_ms`` and
        ``goodput_per_s`` that the rows have.
    better : "lower", "higher" or None
        Which way the metric is better; must be said for a column that is not in `BETTER`.
    settings : tuple of str or None
        Axes a person can choose, as the number of slots. By default guessed by name.
    conditions : tuple of str or None
        Axes he cannot choose, as the load. By default all axes that are not settings.
    memory : str
        Column with the memory of the fullest GPU.
    bounds : tuple of str
        Labels of policies that are bounds, not offers: they are drawn and never win.
    baseline : str
        Label of the policy that does nothing; it may win, and the report says so.
    tolerance_percent : float
        Settings whose mean loss is within this of the best count as equally good; the one with
        the least memory is then advised.
    """

    title: str = ""
    metric: str = ""
    better: Better | None = None
    settings: tuple[str, ...] | None = Field(default=None, strict=False)
    conditions: tuple[str, ...] | None = Field(default=None, strict=False)
    memory: str = "memory_GB"
    bounds: tuple[str, ...] = Field(default=("ideal",), strict=False)
    baseline: str = "none"
    tolerance_percent: float = Field(default=0.5, ge=0, le=100)

    def resolve(self, rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> Aim:
        """Fill in the defaults from the rows.

        Parameters
        ----------
        rows : sequence of mapping
        axes : sequence of str
            Axis columns of the rows.

        Raises
        ------
        InputError
            A column is not there, is no number, or nobody said which way it is better.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row))
        metric = self.metric or next((m for m in _HEADLINES if m in columns), "")
        if not metric or metric not in columns:
            raise _missing("report.metric", metric, columns)
        better = self.better or BETTER.get(metric)
        if better is None:
            raise InputError(
                "which way is it better?",
                place="report.better",
                value=metric,
                remedy="say better: lower, or better: higher",
            )
        settings, conditions = self._axes(axes)
        others = {name: BETTER[name] for name in columns if name in BETTER and name != metric}
        return Aim(self, {metric: better, **others}, tuple(settings), tuple(conditions))

    def _axes(self, axes: Sequence[str]) -> tuple[list[str], list[str]]:
        for key in ("settings", "conditions"):
            for name in getattr(self, key) or ():
                if name not in axes:
                    raise _missing(f"report.{key}", name, axes)
        settings, conditions = self.settings, self.conditions
        both = set(settings or ()) & set(conditions or ())
        if both:
            raise InputError(
                "an axis is either a setting or a condition",
                place="report.settings",
                value=min(both),
                remedy="name it once",
            )
        if settings is None and conditions is None:
            chosen = [name for name in axes if _CHOSEN.search(name) and not _GIVEN.search(name)]
        elif settings is None:
            chosen = [name for name in axes if name not in set(conditions or ())]
        else:
            chosen = [name for name in axes if name in settings]
        return chosen, [name for name in axes if name not in chosen]


@dataclass(frozen=True)
class Aim:
    """A `ReportSpec` with nothing left open.

    Attributes
    ----------
    spec : ReportSpec
    metrics : dict of str to "lower" or "higher"
        All columns a report can be about; the headline first.
    settings, conditions : tuple of str
        Together all axes.
    """

    spec: ReportSpec
    metrics: dict[str, Better]
    settings: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The headline metric."""
        return next(iter(self.metrics))

    def sign(self, metric: str) -> int:
        """Return 1 where more of it is a loss, -1 where more is a gain."""
        return 1 if self.metrics[metric] == "lower" else -1


def _missing(place: str, name: str, there: Iterable[str]) -> InputError:
    return InputError(
        "the rows have no such column" if name else "no column can be the headline",
        place=place,
        value=name,
        remedy=f"name one of {', '.join(sorted(there)) or '(the rows are empty)'}",
    )
