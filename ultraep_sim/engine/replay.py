"""Replay records through policies: who may see what, and when; plans become counts.

The engine owns the history. A policy is handed the loads of the running micro-batch and a
history that ends with the previous global batch, so it cannot look ahead by accident. Where the
trace has a gap, history and placements are dropped: nobody knows what a real system would have
seen there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import PolicyError
from ..fabric.dedup import dedup_factors
from ..planning import LoadStats, Plan, StatsBuilder, expert_loads
from ..policies import Policy, PolicyState
from ..trace import Record

CHUNK = 2048


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one policy (N records, R ranks); arrays are valid until the next.

    Attributes
    ----------
    label : str
    step, micro_batch, layer : ndarray of int64, shape [N]
    warm : ndarray of bool, shape [N]
        Whether this policy had the history it asks for.
    imbalance_before : ndarray of float64, shape [N]
        Max over mean rank load with every expert at home.
    stats : LoadStats
    """

    label: str
    step: NDArray[np.int64]
    micro_batch: NDArray[np.int64]
    layer: NDArray[np.int64]
    warm: NDArray[np.bool_]
    imbalance_before: NDArray[np.float64]
    stats: LoadStats


class PolicyReplay:
    """One policy walking through the records, layer by layer, with its states.

    Parameters
    ----------
    label : str
    policy : Policy
    tile_rows : int
    capacity : int
        Records it buffers.
    top_k : int, optional
        Experts of a token, where the all-to-all sends a token once to every rank it visits;
        None where it sends every pair.
    any_tree : bool
        As in `StatsBuilder`.
    per_replica : int, optional
        Micro-batches of a step that one replica runs one after the other; the next so many are
        another replica's, which runs at the same time. None: all are one replica's.
    on_plan : callable, optional
        Called with every plan, before its counts are booked: for a reader who wants to see which
        experts moved where, which counts do not tell.
    """

    def __init__(
        self,
        label: str,
        policy: Policy,
        tile_rows: int,
        capacity: int = CHUNK,
        top_k: int | None = None,
        *,
        any_tree: bool = False,
        per_replica: int | None = None,
        on_plan: Callable[[Plan], None] | None = None,
    ) -> None:
        self.label = label
        self._on_plan = on_plan
        self.policy = policy
        self._top_k = top_k
        self._per_replica = per_replica
        self._previous: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.builder = StatsBuilder(capacity, policy.layout.num_ranks, tile_rows, any_tree=any_tree)
        self.warm = np.zeros(capacity, np.bool_)
        self._states: dict[int, PolicyState] = {}
        self._below: tuple[tuple[int, int, int], NDArray[np.int64]] | None = None

    def add(
        self,
        record: Record,
        loads: NDArray[np.int64],
        total: NDArray[np.int64],
        step_every: int,
    ) -> None:
        """Plan one record and book its counts; ``total`` is its expert loads."""
        state = self._state(record, step_every)
        plan = self.policy.plan(loads, state)
        if self._on_plan is not None:
            self._on_plan(plan)
        self.warm[len(self.builder)] = state.warm
        self.builder.add(plan, state.moved)
        if self._top_k is not None:
            self.builder.scale_wire(*dedup_factors(plan, self._top_k))
        self._previous[record.layer, self._replica(record)] = total
        above = (record.step, record.micro_batch, record.layer + 1)
        self._below = (above, total)
        if self.policy.cadence_steps is not None:
            state.history.add(record.step, total)

    def _replica(self, record: Record) -> int:
        return record.micro_batch // self._per_replica if self._per_replica else 0

    def _state(self, record: Record, step_every: int) -> PolicyState:
        state = self._states.get(record.layer)
        if state is None or record.step > state.step + step_every:
            state = self.policy.new_state(record.layer)
            state.since = record.step
            self._states[record.layer] = state
            for key in [key for key in self._previous if key[0] == record.layer]:
                del self._previous[key]
        state.previous = self._previous.get((record.layer, self._replica(record)))
        state.step, state.micro_batch = record.step, record.micro_batch
        state.moved = None
        here = (record.step, record.micro_batch, record.layer)
        state.layer_before = self._below[1] if self._below and self._below[0] == here else None
        return state


def replay(
    records: Iterable[Record],
    replays: Sequence[PolicyReplay],
    on_chunk: Callable[[Chunk], None],
    *,
    step_every: int = 1,
    on_record: Callable[[], None] | None = None,
) -> int:
    """Walk all policies through the records together, one pass over the trace.

    Parameters
    ----------
    records : iterable of Record
        Loads with one row a rank, int32 [ranks, experts].
    replays : sequence of PolicyReplay
        Of one layout and one capacity.
    on_chunk : callable
        Called with each policy's `Chunk` whenever the buffers are full, and at the end.
    step_every : int
        Steps between two recorded ones; a larger jump is a gap.
    on_record : callable, optional
        Called after each record, for progress.

    Returns
    -------
    int
        Records replayed.

    Raises
    ------
    PolicyError
        If a policy lives on history and the trace left steps out.
    """
    _refuse_gaps(replays, step_every)
    layout = replays[0].policy.layout
    keys: list[tuple[int, int, int]] = []
    before: list[float] = []
    count = 0

    def flush() -> None:
        step, micro_batch, layer = np.array(keys, np.int64).reshape(-1, 3).T
        for item in replays:
            warm = item.warm[: len(keys)]
            on_chunk(
                Chunk(
                    item.label, step, micro_batch, layer, warm, np.array(before), item.builder.stats
                )
            )
            item.builder.reset()
        keys.clear()
        before.clear()

    for record in records:
        loads = record.loads.astype(np.int64)
        total = expert_loads(loads)
        for item in replays:
            item.add(record, loads, total, step_every)
        at_home = np.bincount(layout.home, total, layout.num_ranks)
        pairs = at_home.sum()
        before.append(float(at_home.max()) * layout.num_ranks / pairs if pairs else 1.0)
        keys.append((record.step, record.micro_batch, record.layer))
        count += 1
        if replays[0].builder.full:
            flush()
        if on_record is not None:
            on_record()
    if keys:
        flush()
    return count


def _refuse_gaps(replays: Sequence[PolicyReplay], step_every: int) -> None:
    """Refuse a policy that lives on history where the trace left steps out.

    It would place on a staler, thinner history than it asks for, and look worse than it is.
    """
    for item in replays:
        if step_every > 1 and not item.policy.exact:
            raise PolicyError(
                f"{item.policy.name} needs every global batch, but the trace has one in "
                f"{step_every}",
                place=f"policy {item.label.strip(chr(0))}",
                value=f"step_every {step_every}",
                remedy="leave it out, or replay a trace without sampling",
            )
