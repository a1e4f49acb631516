"""Whole training iterations: from the counts of a replay to jobs, and what they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..compute.model_flops import step_flops
from ..errors import ScenarioError
from ..planning.stats import LoadStats
from .geometry import Geometry, geometry, stand_ins
from .job import IterationTimes, Job
from .lasting import lasting_replicas
from .options import LayerOptions
from .phases import busy_phases
from .stragglers import Conditions
from .stragglers import Geometry as Group
from .surroundings import Surroundings, surroundings
from .wires import wires

if TYPE_CHECKING:
    from ..policies import DecisionPrice
    from ..scenario import Scenario

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Iteration:
    """What one iteration of one policy took.

    Attributes
    ----------
    iteration_s : float
    tflops_per_gpu : float
        Model FLOPs (`ultraep_sim.compute.model_flops`) over time and GPUs.
    communication_exposed, pipeline_idle, sync_exposed : float
        Shares of the iteration, means over stages: a stage is in a forward or backward but its
        compute stream waits for communication or a plan; it waits for other stages or replicas;
        gradient sync that sticks out behind its last backward, optimizer and gathering of
        parameters.
    """

    iteration_s: float
    tflops_per_gpu: float
    communication_exposed: float
    pipeline_idle: float
    sync_exposed: float


class TrainingJobs:
    """The iterations of a scenario, one `Job` for each policy.

    Parameters
    ----------
    scenario : Scenario
        With a training section.
    options : LayerOptions
    stats : mapping of str to LoadStats
        Counts of every record by policy, in order of step, micro-batch and layer.
    prices : mapping of str to DecisionPrice
    keys : int64 [records, 3]
        Step, micro-batch and layer of every record.

    Raises
    ------
    ScenarioError
        If a step lacks a layer or a micro-batch.
    """

    def __init__(
        self,
        scenario: Scenario,
        options: LayerOptions,
        stats: Mapping[str, LoadStats],
        prices: Mapping[str, DecisionPrice],
        keys: NDArray[np.int64],
    ) -> None:
        self.scenario, self.options = scenario, options
        self.place: Geometry = geometry(scenario)
        self.conditions = conditions(scenario)
        self._stats, self._prices = stats, prices
        self.rows = _grid(scenario, keys)
        """Record of each (iteration, micro-batch, recorded layer), int64."""
        spec = scenario.training
        assert spec is not None  # noqa: S101  # `geometry` has refused a scenario without
        self._spec = spec
        self._layers = stand_ins(self.place.moe_layers, self.rows.shape[2], spec.layer_map)

    @cached_property
    def _around(self) -> Surroundings:
        s = self.scenario
        ways = wires(s, self.place)
        return surroundings(s.model, s.rack, self.place, self.options, ways)

    def job(self, label: str, iteration: int, start_s: float = 0.0) -> Job:
        """Return one iteration of one policy.

        Parameters
        ----------
        label : str
        iteration : int
            Index into the steps of the trace.
        start_s : float
            Simulated seconds since the start of the run; decides which spells it meets.
        """
        place, around, engine = self.place, self._around, self.scenario.engine
        shape = (place.replicas, len(place.moe), place.ranks)
        price = self._prices[label]
        slow = self.conditions
        gradients, weights = self._lasting(label, iteration)
        return Job(
            stages=place.stages,
            chunks=place.chunks,
            micro_batches=place.micro_batches,
            replicas=place.replicas,
            ranks=place.ranks,
            schedule=self._spec.schedule,
            overlap=engine.overlap,
            recompute=engine.recompute,
            restore=engine.restore,
            hidden=price.hidden,
            prefetched=price.prefetched,
            grad_sync=self._spec.grad_sync,
            layers=place.moe,
            busy=self._busy(label, iteration),
            extra_forward=slow.apply_extra(_spread(around.extra_forward, shape)),
            extra_backward=slow.apply_extra(_spread(around.extra_backward, shape)),
            hop_s=around.hop_s,
            bucket_s=around.bucket_s + gradients,
            extra_bucket_s=around.extra_bucket_s,
            finish_s=around.finish_s + weights,
            episodes=slow.episodes(start_s),
        )

    def positions(self, iteration: int, replica: int) -> NDArray[np.int64]:
        """Record of each micro-batch and MoE layer of a replica, int64 [M, L]."""
        count = self.place.micro_batches
        first = replica * count if self._spec.replica_loads == "own" else 0
        return self.rows[iteration, first : first + count][:, self._layers]

    def pairs(self, label: str, iteration: int, replica: int) -> NDArray[Any]:
        """Pairs each rank computes, integer [M, L, R]."""
        return self._stats[label].pairs[self.positions(iteration, replica)]

    def _lasting(self, label: str, iteration: int) -> tuple[Seconds, Seconds]:
        """Seconds by MoE layer, and by stage, of replicas that outlive a micro-batch."""
        layers, stage = self.place.moe_layers, self.place.stage_of_layer()
        if not self._prices[label].lasting:
            return np.zeros(layers), np.zeros(self.place.stages)
        at_end = self._stats[label].take(self.positions(iteration, 0)[-1])
        s = self.scenario
        gradients, weights = lasting_replicas(s.model, s.rack, at_end, self.options)
        by_stage = np.zeros(self.place.stages)
        np.add.at(by_stage, stage, weights)
        return gradients, by_stage

    def _busy(self, label: str, iteration: int) -> Callable[[int], dict[str, Seconds]]:
        stage_of_layer = self.place.stage_of_layer()

        def busy(replica: int) -> dict[str, Seconds]:
            rows = self.positions(iteration, replica)
            found, back = np.unique(rows, return_inverse=True)
            seconds = busy_phases(
                self.scenario.model,
                self.scenario.rack,
                self._stats[label].take(found),
                self._prices[label],
                self.options,
            )
            cube = {name: part[back.reshape(rows.shape)] for name, part in seconds.items()}
            if self._prices[label].transport == "migrate":
                cube["fwd_distribute"] = self._migration(label, iteration)
            return self.conditions.apply(cube, iteration, replica, stage_of_layer)

        return busy

    def _migration(self, label: str, iteration: int) -> Seconds:
        """Seconds of moving experts to a new placement, float64 [M, L, R], in every replica alike.

        The replay tells a move once, at the first micro-batch of a step; every replica makes it
        there, before its own first.
        """
        first = self.rows[iteration, 0][self._layers]
        s = self.scenario
        seconds = busy_phases(
            s.model, s.rack, self._stats[label].take(first), self._prices[label], self.options
        )["fwd_distribute"]
        every = np.zeros((self.place.micro_batches, *seconds.shape))
        every[0] = seconds
        return every

    def measure(self, label: str, times: IterationTimes) -> Iteration:
        """Sum up one iteration."""
        total, place = times.iteration_s, self.place
        tokens = place.micro_batches * place.replicas * place.ranks * self.options.tokens_per_rank
        flops = step_flops(self.scenario.model, tokens, self.options.sequence_length)
        ends = times.backward_end.reshape(place.replicas, place.chunks, place.stages, -1)
        last = ends.max(axis=(0, 1, 3))  # of a stage, in the slowest replica
        around = np.maximum(times.sync_end - last, 0.0) + self._finish(label)
        waits = (times.busy_s - times.compute_s).mean()
        busy, sync = float(times.busy_s.mean() / total), float(around.mean() / total)
        # Stages that are done early wait for the last one: that is the pipeline, not the sync.
        idle = max(0.0, 1.0 - busy - sync)
        return Iteration(total, flops / total / place.gpus / 1e12, float(waits / total), idle, sync)

    def _finish(self, label: str) -> Seconds:
        """Optimizer and gathering of parameters, float64 [P]."""
        return self._around.finish_s + self._lasting(label, 0)[1]


def conditions(scenario: Scenario) -> Conditions:
    """Return what is slow or breaks in a scenario."""
    ep = scenario.ep
    group = Group(ep.data_parallel, ep.pipeline_stages, ep.ranks, scenario.gpus_per_domain)
    return Conditions(scenario.stragglers, group, scenario.seed)


def engine_of(scenario: Scenario) -> Callable[[Job], IterationTimes]:
    """Return the engine a scenario asks for."""
    if scenario.engine.mode == "event":
        from .event import run_event

        return run_event
    from .fast import run_fast

    return run_fast


def _spread(seconds: Seconds, shape: tuple[int, ...]) -> Seconds:
    return np.broadcast_to(seconds[None, :, None], shape)


def _grid(scenario: Scenario, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order the records by iteration, micro-batch and layer, and refuse holes."""
    counts = [len(np.unique(keys[:, column])) for column in range(3)]
    if np.prod(counts) != len(keys):
        raise ScenarioError(
            "whole iterations need every recorded layer of every micro-batch",
            file=scenario.source_path,
            place="workload",
            value=f"{len(keys)} records of {counts[0]} steps x {counts[1]} micro-batches x "
            f"{counts[2]} layers",
            remedy="choose steps that were recorded whole",
        )
    order = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))
    return order.reshape(counts)
