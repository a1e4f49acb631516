"""What policies that place by history share: a cadence, a window, and when they are warm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..planning import EPLayout
from .base import Policy, PolicyState, Transport, one_of, positive


class HistoryPolicy(Policy):
    """A policy that renews its placement every so many global batches, on a mean of past ones.

    Parameters
    ----------
    layout : EPLayout
    cadence_steps : int
        Global batches between two placements.
    window_steps : int, optional
        Global batches the mean is taken over; default the cadence.
    migration : {"migrate", "free"}
        Whether moving weights takes time.
    """

    exact = False

    def __init__(
        self,
        layout: EPLayout,
        cadence_steps: int,
        window_steps: int | None = None,
        migration: str = "migrate",
    ) -> None:
        super().__init__(layout)
        self._cadence = positive("cadence_steps", cadence_steps)
        window = cadence_steps if window_steps is None else window_steps
        self._window = positive("window_steps", window)
        one_of("migration", migration, ("migrate", "free"))
        self._transport: Transport = "migrate" if migration == "migrate" else "free"

    @property
    def cadence_steps(self) -> int:
        """Global batches between two placements."""
        return self._cadence

    @property
    def window_steps(self) -> int:
        """Global batches the mean is taken over."""
        return self._window

    def renewal(self, state: PolicyState, placed_at: int) -> NDArray[np.int64] | None:
        """Return the window's expert loads, summed, if it is time for a new placement.

        A placement on less than the whole window does not make the policy warm: what it does on
        a shorter history than it asks for is not what it is.

        Parameters
        ----------
        state : PolicyState
        placed_at : int
            Step of the placement in use, or the first step there is.

        Returns
        -------
        ndarray of int64, shape [experts], or None
        """
        window = state.history.window(state.step, self._window)
        if not window or state.step - placed_at < self._cadence:
            return None
        state.warm = state.step - state.since >= self._window
        return np.asarray(np.sum(window, axis=0))
