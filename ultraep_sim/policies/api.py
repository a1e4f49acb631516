"""Plan one load matrix with one policy: the shortest way in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from ..errors import PolicyError
from ..planning import EPLayout, Plan, check_loads
from .base import Policy
from .registry import get_policy


def plan(
    loads: ArrayLike, layout: EPLayout, policy: str | Policy = "ultraep", **options: Any
) -> Plan:
    """Plan replicas and quotas for one layer and micro-batch.

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [ranks, experts]
        (token, expert) pairs of each source rank; a vector where the source is unknown.
    layout : EPLayout
    policy : str or Policy
        A name, see `available_policies`, or a policy made for the same layout.
    **options
        Options of a policy given by name.

    Returns
    -------
    Plan

    Raises
    ------
    LoadsError, PolicyError
        If the loads or the policy cannot be used.

    Notes
    -----
    There is no history here, and a policy that places without the exact loads would leave mains at
    home and open no replica. So it is planned in hindsight: it is given these loads as its history,
    as the micro-batch before, and as the layer below, the best it could ever know.

    Examples
    --------
    >>> import numpy as np
    >>> import ultraep_sim as us
    >>> layout = us.EPLayout(num_ranks=4, num_experts=8, slots_per_rank=1)
    >>> print(us.plan(np.array([70, 10, 5, 5, 5, 5, 10, 10]), layout))
    Plan by ultraep: imbalance 2.667 -> 1.033, 3 replicas, max fan-out 3
    """
    matrix = check_loads(loads, layout)
    if isinstance(policy, str):
        chosen = get_policy(policy, layout, **options)
    else:
        chosen = _bound(policy, layout, options)
    state = chosen.new_state()
    if not chosen.exact:
        state.previous = state.layer_before = matrix.sum(axis=0)
    if chosen.cadence_steps is not None:
        state.history.add(-1, matrix.sum(axis=0))
        state.since = -chosen.cadence_steps
    return chosen.plan(matrix, state)


def _bound(policy: Policy, layout: EPLayout, options: dict[str, Any]) -> Policy:
    """Check a policy object: made for this layout (it may have taken more slots), no options."""
    if options:
        raise PolicyError(
            "a policy object takes no options any more", place=next(iter(options)),
            remedy="give them when you make it, or name the policy",
        )  # fmt: skip
    own = replace(policy.layout, slots_per_rank=layout.slots_per_rank)
    if own != layout or policy.layout.slots_per_rank < layout.slots_per_rank:
        raise PolicyError(
            "the policy object was made for another layout", place="policy", value=policy.layout
        )
    return policy
