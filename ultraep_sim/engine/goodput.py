"""What lost GPUs leave of a campaign: iterations, checkpoints, restarts, work done twice."""

from __future__ import annotations

from collections.abc import Sequence

from ..scenario.stragglers import FailuresSpec
from .event.faults import CampaignTimes, Failure, run_campaign
from .stragglers import Conditions


def campaign(
    spec: FailuresSpec, conditions: Conditions, iteration_s: Sequence[float]
) -> CampaignTimes:
    """Run a campaign of the iterations that were timed, over and over.

    Parameters
    ----------
    spec : FailuresSpec
    conditions : Conditions
        Knows which GPUs are lost, and when.
    iteration_s : sequence of float
        Seconds of the iterations that were timed; they are repeated in turn.

    Returns
    -------
    CampaignTimes
    """
    count = spec.iterations
    horizon = 2.0 * count * max(iteration_s) + spec.restart_s
    while True:
        losses = conditions.losses(0.0, horizon)
        found = run_campaign(
            lambda i: iteration_s[i % len(iteration_s)],
            [Failure(loss.gpu, loss.at_s) for loss in losses],
            checkpoint_every=spec.checkpoint_every_iterations,
            checkpoint_s=spec.checkpoint_s,
            restart_s=spec.restart_s,
            iterations=count,
        )
        # Losses after the horizon are not drawn yet: a campaign that outlives it meets more.
        if found.total_s < horizon:
            return found
        horizon *= 2.0
