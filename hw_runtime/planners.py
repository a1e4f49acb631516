"""A planner on a device by its options: which policies have a kernel."""

from __future__ import annotations

from typing import Any

from ultraep_sim.planning import EPLayout, MosaicOptions, QuotaOptions

from .mosaic import MosaicPlanner
from .planner import DevicePlanner, QuotaPlanner

Options = QuotaOptions | MosaicOptions


def planner_of(options: Options | None) -> type[QuotaPlanner] | type[MosaicPlanner]:
    """Return the planner that takes these options; the published one for None."""
    return MosaicPlanner if isinstance(options, MosaicOptions) else QuotaPlanner


def open_planner(layout: EPLayout, options: Options | None = None, **where: Any) -> DevicePlanner:
    """Bind a policy to a layout; ``where`` are ``device`` and ``kernels`` of `DevicePlanner`."""
    if isinstance(options, MosaicOptions):
        return MosaicPlanner(layout, options, **where)
    return QuotaPlanner(layout, options, **where)
