"""Replay records through policies: who may see what, and when; plans become counts.

The engine owns the history. A policy is handed the loads of the running micro-batch and a
history that ends with the previous global batch, so it cannot look ahead by accident. Where the
trace has a gap, history and placements are dropped: nobody knows what a real system would have
seen there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PolicyError
from ..fabric.dedup import dedup_factors
from ..planning import EPLayout, LoadStats, Plan, StatsBuilder, expert_loads
from ..planning.batch_stats import margins
from ..policies import Policy, PolicyState
from ..trace import Record
from ..trace.container import Block

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
        self.builder = StatsBuilder(capacity, policy.layout, tile_rows, any_tree=any_tree)
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

    @property
    def in_blocks(self) -> bool:
        """Whether many records can be planned at once: no state, no reader of single plans."""
        kind, plain = type(self.policy), self._on_plan is None
        return (
            plain and isinstance(self.policy, Policy) and (self._by_kernel or kind.plans_totals())
        )

    @property
    def _by_kernel(self) -> bool:
        # De-duplication looks at one plan at a time.
        return self._top_k is None and type(self.policy).plans_blocks()

    def add_block(
        self, block: Block, totals: NDArray[np.int64], sums: NDArray[np.int64], step_every: int
    ) -> None:
        """Plan consecutive records and book their counts, as `add` does one after the other.

        Parameters
        ----------
        block : Block
            No more than the builder has room for.
        totals : ndarray of int64, shape [N, experts]
        sums : ndarray of int64, shape [N, ranks]
            What each source holds.
        step_every : int
        """
        if not self.in_blocks:
            for key, loads, total in zip(block.keys.tolist(), block.loads, totals, strict=True):
                step, micro_batch, layer = key
                self.add(
                    Record(step, micro_batch, layer, loads),
                    loads.astype(np.int64),
                    total,
                    step_every,
                )
            return
        n = len(self.builder)
        self.warm[n : n + len(totals)] = True
        replicas = self.policy.plan_block(totals) if self._by_kernel else None
        if replicas is not None:
            self.builder.add_replicas(self.policy.layout, block.loads, totals, sums, replicas)
            return
        # The plan depends on the sums alone, and the layers of a micro-batch have the same.
        changed = np.flatnonzero((sums[1:] != sums[:-1]).any(axis=1)) + 1
        for first, stop in pairwise([0, *changed.tolist(), len(sums)]):
            step, micro_batch, layer = block.keys[first].tolist()
            record = Record(step, micro_batch, layer, block.loads[first])
            self.add(record, record.loads.astype(np.int64), totals[first], step_every)
            self.builder.repeat(stop - first - 1)

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
    buffers = _Buffers(replays, on_chunk)
    count = 0
    for record in records:
        loads = record.loads.astype(np.int64)
        total = expert_loads(loads)
        for item in replays:
            item.add(record, loads, total, step_every)
        buffers.add(np.array([record[:3]], np.int64), total[None])
        count += 1
        if on_record is not None:
            on_record()
    buffers.flush()
    return count


def replay_blocks(
    blocks: Iterable[Block],
    replays: Sequence[PolicyReplay],
    on_chunk: Callable[[Chunk], None],
    *,
    step_every: int = 1,
    on_records: Callable[[int], None] | None = None,
) -> int:
    """Walk all policies through blocks of records, with the counts that `replay` gives.

    Policies that can plan many records at once do so; the others go through a block one by one.

    Parameters
    ----------
    blocks : iterable of Block
        Loads with one row a rank.
    replays, on_chunk, step_every
        As in `replay`.
    on_records : callable, optional
        Called with the number of records just replayed, for progress.

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
    buffers = _Buffers(replays, on_chunk)
    count = 0
    for block in blocks:
        first = 0
        while first < len(block.keys):
            stop = min(len(block.keys), first + buffers.room)
            part = Block(block.keys[first:stop], block.loads[first:stop])
            totals, sums = margins(part.loads)
            for item in replays:
                item.add_block(part, totals, sums, step_every)
            buffers.add(part.keys, totals)
            count += stop - first
            if on_records is not None:
                on_records(stop - first)
            first = stop
    buffers.flush()
    return count


class _Buffers:
    """Keys and first imbalance of the records that the policies hold; handed over when full."""

    def __init__(self, replays: Sequence[PolicyReplay], on_chunk: Callable[[Chunk], None]) -> None:
        self._replays, self._on_chunk = replays, on_chunk
        self._layout = replays[0].policy.layout
        self._keys: list[NDArray[np.int64]] = []
        self._before: list[NDArray[np.float64]] = []

    @property
    def room(self) -> int:
        """Records that fit before the next `flush`."""
        return self._replays[0].builder.room

    def add(self, keys: NDArray[np.integer[Any]], totals: NDArray[np.int64]) -> None:
        """Note records that every policy has planned; ``totals`` are int64 [N, experts]."""
        self._keys.append(keys.astype(np.int64))
        self._before.append(_imbalance_at_home(totals, self._layout))
        if not self.room:
            self.flush()

    def flush(self) -> None:
        """Hand over what is held, policy by policy."""
        if not self._keys:
            return
        step, micro_batch, layer = np.concatenate(self._keys).T
        before = np.concatenate(self._before)
        for item in self._replays:
            warm = item.warm[: len(before)]
            stats = item.builder.stats
            self._on_chunk(Chunk(item.label, step, micro_batch, layer, warm, before, stats))
            item.builder.reset()
        self._keys.clear()
        self._before.clear()


def _imbalance_at_home(totals: NDArray[np.int64], layout: EPLayout) -> NDArray[np.float64]:
    """Max over mean rank load with every expert at home, of expert loads [N, experts]."""
    at_home = np.zeros((len(totals), layout.num_ranks), np.int64)
    order = np.argsort(layout.home, kind="stable")
    ranks, starts = np.unique(layout.home[order], return_index=True)
    at_home[:, ranks] = np.add.reduceat(totals[:, order], starts, axis=1)
    pairs = at_home.sum(axis=1)
    peak = at_home.max(axis=1).astype(np.float64) * layout.num_ranks
    out = np.ones(len(totals))
    np.divide(peak, pairs, out=out, where=pairs > 0)
    return out


def refuse_missing_layers(replays: Sequence[PolicyReplay], sampled: Sequence[int] | None) -> None:
    """Refuse a policy that looks at the layer below where the sampling left layers out.

    It would find nothing below most layers, and look worse than it is.
    """
    layers = sorted(sampled or ())
    if not layers or layers == list(range(layers[0], layers[-1] + 1)):
        return
    for item in replays:
        if item.policy.sees_layer_below:
            raise PolicyError(
                f"{item.policy.name} places by the layer below, but the trace left layers out",
                place=f"policy {item.label.strip(chr(0))}",
                value=f"layers {layers}",
                remedy="leave it out, predict from the step before, or replay all layers",
            )


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
