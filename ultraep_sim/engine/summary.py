"""Sum up a run: one row a policy, the record table, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..policies import DecisionPrice
from .goodput import campaign
from .memory import MemoryUse
from .replay import PolicyReplay
from .spill import Spill
from .streamed import counted, mean, percentile
from .training import Iteration, TrainingJobs
from .workload import Workload, sampling_notes

if TYPE_CHECKING:
    from ..scenario import Scenario

_JOINT = ("two_batch", "dualpipe")


def reference(name: str) -> str:
    """Key of a reference policy that no label of a scenario can have."""
    return f"\0{name}"


def result_rows(
    labels: Sequence[str],
    records: Spill,
    memory: Mapping[str, MemoryUse],
    warm: NDArray[np.bool_],
    iterations: Mapping[str, Sequence[Iteration]],
    jobs: TrainingJobs | None,
) -> list[dict[str, Any]]:
    """Return the rows of a result: means over the records that count.

    Where there are iterations, speed-up and share of the ideal are theirs.
    """
    count = int(warm.sum())

    def parts(label: str, name: str) -> Iterator[NDArray[Any]]:
        return counted(records.parts(label, name), warm)

    def average(label: str, name: str) -> float:
        return mean(parts(label, name), count)

    layer_time = {
        label: average(label, "layer_time_s")
        for label in (*labels, reference("none"), reference("ideal"))
    }
    step_time = {
        label: float(np.mean([one.iteration_s for one in found]))
        for label, found in iterations.items()
    }
    mean_time = step_time or layer_time
    return [
        {
            "policy": label,
            "mean_rank_imbalance": average(label, "imbalance"),
            "p99_rank_imbalance": percentile(partial(parts, label, "imbalance"), count, 99),
            "layer_time_ms": layer_time[label] * 1e3,
            "fraction_of_ideal": mean_time[reference("ideal")] / mean_time[label],
            "speedup_over_none": mean_time[reference("none")] / mean_time[label],
            "exposed_overhead_us_per_layer": average(label, "exposed_overhead_s") * 1e6,
            "replicas_per_plan": average(label, "replicas"),
            "activation_peak_ratio": memory[label].activation_peak_ratio,
            **_of_iterations(iterations.get(label, ())),
            **_of_campaign(jobs, iterations.get(label, ())),
        }
        for label in labels
    ]


def _of_iterations(found: Sequence[Iteration]) -> dict[str, float]:
    """Means over iterations; throughput is tokens over time, so it is the mean's, not a mean."""
    if not found:
        return {}
    mean = {name: float(np.mean([asdict(one)[name] for one in found])) for name in asdict(found[0])}
    flops = found[0].tflops_per_gpu * found[0].iteration_s
    return {
        "iteration_ms": mean["iteration_s"] * 1e3,
        "tflops_per_gpu": flops / mean["iteration_s"],
        "communication_exposed": mean["communication_exposed"],
        "pipeline_idle": mean["pipeline_idle"],
        "sync_exposed": mean["sync_exposed"],
    }


def _of_campaign(jobs: TrainingJobs | None, found: Sequence[Iteration]) -> dict[str, float]:
    """Share of a campaign with lost GPUs that is useful, where the scenario loses some."""
    spec = None if jobs is None else jobs.conditions.spec.failures
    if jobs is None or spec is None or not found:
        return {}
    times = campaign(spec, jobs.conditions, [one.iteration_s for one in found])
    return {
        "goodput": times.goodput,
        "restarts": float(times.restarts),
        "campaign_h": times.total_s / 3600,
    }


def iteration_table(
    labels: Sequence[str], iterations: Mapping[str, Sequence[Iteration]], steps: Sequence[int]
) -> pa.Table:
    """Return one row a (policy, iteration)."""
    rows = [
        {"policy": label, "step": step, **asdict(one)}
        for label in labels
        for step, one in zip(steps, iterations[label], strict=True)
    ]
    return pa.Table.from_pylist(rows)


def result_notes(
    scenario: Scenario,
    workload: Workload,
    warm: NDArray[np.bool_],
    memory: Mapping[str, MemoryUse],
    replays: Sequence[PolicyReplay],
    jobs: TrainingJobs | None,
) -> list[str]:
    """Say what a reader of the table must know."""
    prices = {item.label: item.policy.price() for item in replays}
    notes = [f"{int(warm.sum())} (layer, micro-batch) records count in every mean"]
    left_out = int((~warm).sum())
    if left_out:
        notes.append(
            f"{left_out} records are left out of every policy's means: there a history policy "
            "had not seen its window yet (start of the trace, or after a gap)"
        )
    notes += [
        f"{label} does not fit: {use.total / 1e9:.0f} GB of a GPU's {use.capacity / 1e9:.0f} GB "
        "on its fullest rank; its times are those of a machine that had the memory"
        for label, use in memory.items()
        if not use.fits
    ]
    if not workload.trace.meta.synthetic and workload.trace.meta.model != scenario.model.name:
        notes.append(
            f"routing of {workload.trace.meta.model} drives the shape of {scenario.model.name}"
        )
    notes += sampling_notes(workload.trace)
    if jobs is not None:
        notes += _of_training(scenario, jobs)
    return notes + _not_charged(scenario, workload, prices) + _slots_taken(scenario, replays)


def _of_training(scenario: Scenario, jobs: TrainingJobs) -> list[str]:
    spec, place = scenario.training, jobs.place
    if spec is None:
        return []
    notes = [
        f"iterations of {place.micro_batches} micro-batches on each of {place.replicas} replicas, "
        f"{place.stages} stages of EP{place.ranks}: {place.gpus} GPUs, {scenario.engine.mode} path"
    ]
    recorded = jobs.rows.shape[2]
    if recorded < place.moe_layers:
        how = {
            "cycle": "repeated in turn: every stage has all of them, so layers of a stage differ",
            "stretch": "stretched: neighbours are the same, so the layers of a stage are alike",
        }[spec.layer_map]
        notes.append(
            f"{recorded} layers stand for the model's {place.moe_layers} MoE layers, {how}"
        )
    if spec.replica_loads == "shared" and place.replicas > 1:
        notes.append("all replicas see the same micro-batches: none waits for another's load")
    if scenario.workload.sequence_length > jobs.options.tokens_per_rank:
        notes.append(
            f"a sequence of {scenario.workload.sequence_length} tokens is longer than a rank's "
            f"micro-batch of {jobs.options.tokens_per_rank}: only attention's context is, no "
            "context parallelism is modelled"
        )
    if scenario.topology is not None:
        notes.append(
            "the topology section sets pipeline hops and gradient sync; inside layers the rack's "
            "rates hold"
        )
    if scenario.engine.restore == "overlapped" and scenario.engine.overlap in _JOINT:
        notes.append(
            f"with {scenario.engine.overlap} the restore of replica weights is on the "
            "communication stream, exposed or overlapped alike"
        )
    if scenario.stragglers is not None:
        notes.append("layer times are those of usual GPUs, iterations those of this scenario's")
    return notes + jobs.conditions.notes()


def _slots_taken(scenario: Scenario, replays: Sequence[PolicyReplay]) -> list[str]:
    """Say which listed policies took more slots than the scenario offers."""
    offered = scenario.ep.slots_per_rank
    labels = {spec.label for spec in scenario.policies}
    return [
        f"{item.label} needs {slots} slots a rank where {offered} are offered; its memory is "
        "charged with them"
        for item in replays
        if item.label in labels and (slots := item.policy.layout.slots_per_rank) > offered
    ]


def _not_charged(
    scenario: Scenario, workload: Workload, prices: Mapping[str, DecisionPrice]
) -> list[str]:
    """Say what the times of the listed policies leave out."""
    lasting = [s.label for s in scenario.policies if prices[s.label].lasting]
    fast = [s.label for s in scenario.policies if s.options.get("speeds") is not None]
    notes = []
    if lasting and workload.phase == "training" and scenario.training is None:
        notes.append(
            f"the replica gradients of {', '.join(lasting)} are summed once a global batch, "
            "outside the layer, and are not charged"
        )
    if fast and scenario.stragglers is None:
        notes.append(
            f"{', '.join(fast)} plans for ranks of unequal speed, but the scenario has no "
            "stragglers: all ranks are timed alike"
        )
    return notes
