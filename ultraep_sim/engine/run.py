"""Run a scenario: replay its records through its policies, time every layer, sum up.

`none` and `ideal` are always replayed, because every figure is told relative to them; they stand
in the result only where the scenario lists them.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import ScenarioError
from ..planning import EPLayout
from ..planning.stats import LoadStats
from ..policies import DecisionPrice, get_policy
from ..policies.registry import takes_cost
from .cost import cost_model
from .layer import LayerOptions, LayerTimes, layer_times
from .memory import MemoryUse, memory_use
from .replay import Chunk, PolicyReplay, replay
from .summary import iteration_table, record_table, reference, result_notes, result_rows
from .training import Iteration, TrainingJobs, engine_of
from .workload import Workload, make_workload

if TYPE_CHECKING:
    from ..scenario import Scenario

Progress = Callable[[str, int, int], None]

_REFERENCES = ("none", "ideal")
_PACKAGES = ("ultraep-sim", "numpy", "numba", "pyarrow", "pydantic")


@dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes
    ----------
    scenario : Scenario
    rows : list of dict
        One a policy: ``policy``, ``mean_rank_imbalance``, ``p99_rank_imbalance``,
        ``layer_time_ms``, ``fraction_of_ideal``, ``speedup_over_none``,
        ``exposed_overhead_us_per_layer``, ``replicas_per_plan``, ``activation_peak_ratio``; of
        training iterations also ``iteration_ms``, ``tflops_per_gpu``, ``communication_exposed``,
        ``pipeline_idle``, ``sync_exposed``.
    records : pyarrow.Table
        One row a (policy, step, micro-batch, layer); the content of ``result.parquet``.
    memory : list of dict
        Bytes per rank and policy, by part.
    workload_label : str
        What the loads are, and what was done to them.
    trace_meta : dict
    trace_digest : str
    notes : list of str
        What a reader must know: warm-up left out, records, sources.
    iterations : pyarrow.Table or None
        One row a (policy, iteration) where the scenario has a training section; the content of
        ``iterations.parquet``.
    """

    scenario: Scenario
    rows: list[dict[str, Any]]
    records: pa.Table
    memory: list[dict[str, Any]]
    workload_label: str
    trace_meta: dict[str, Any]
    trace_digest: str
    notes: list[str]
    iterations: pa.Table | None = None

    def write(self, directory: str | Path, command: Sequence[str] = ()) -> Path:
        """Write ``result.parquet``, ``summary.json`` and the resolved ``scenario.yaml``.

        Parameters
        ----------
        directory : str or Path
            Made if it does not exist; files of an earlier run in it are replaced.
        command : sequence of str
            How the run was started, for the summary.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        summary = {
            "scenario": self.scenario.to_dict(),
            "rows": self.rows,
            "workload": self.workload_label,
            "trace": {"digest": self.trace_digest, "meta": self.trace_meta},
            "memory": self.memory,
            "notes": self.notes,
            "versions": {"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
            "seed": self.scenario.seed,
            "command": list(command),
        }
        # The summary comes last: a directory that has one is complete.
        (directory / "summary.json").unlink(missing_ok=True)
        pq.write_table(self.records, directory / "result.parquet", compression="zstd")
        if self.iterations is not None:
            pq.write_table(self.iterations, directory / "iterations.parquet", compression="zstd")
        else:
            (directory / "iterations.parquet").unlink(missing_ok=True)
        (directory / "scenario.yaml").write_text(self.scenario.to_yaml(directory), encoding="utf-8")
        text = json.dumps(summary, indent=2, allow_nan=False, default=str)
        (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
        return directory


def run_scenario(scenario: Scenario, *, progress: Progress | None = None) -> RunResult:
    """Run a scenario in this process.

    Parameters
    ----------
    scenario : Scenario
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each record.

    Returns
    -------
    RunResult

    Raises
    ------
    UltraEPSimError
        If the trace, a policy or the scenario cannot be used.
    """
    workload = make_workload(scenario)
    layout = _layout(scenario)
    options = _layer_options(scenario, workload)
    replays = _replays(scenario, layout, options)
    tables: dict[str, list[dict[str, NDArray[Any]]]] = {item.label: [] for item in replays}
    counts: dict[str, list[LoadStats]] = {item.label: [] for item in replays}
    prices = {item.label: item.policy.price() for item in replays}

    def on_chunk(chunk: Chunk) -> None:
        times = layer_times(
            scenario.model, scenario.rack, chunk.stats, prices[chunk.label], options
        )
        tables[chunk.label].append(_columns(chunk, times))
        if scenario.training is not None:
            counts[chunk.label].append(chunk.stats.packed())

    total, done = workload.num_records, 0

    def on_record() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("replaying", done, total)

    replay(workload, replays, on_chunk, step_every=workload.step_every, on_record=on_record)
    columns = {label: _join(parts) for label, parts in tables.items()}
    warm = _warm(scenario, replays, columns)
    labels = [spec.label for spec in scenario.policies]
    memory = {
        item.label: _memory(
            scenario, item.policy.layout, columns[item.label], warm, options, prices[item.label]
        )
        for item in replays
        if item.label in labels
    }
    _check_memory(memory)
    jobs, steps = None, []
    iterations: dict[str, list[Iteration]] = {}
    if scenario.training is not None:
        keys = np.stack([columns[replays[0].label][k] for k in ("step", "micro_batch", "layer")], 1)
        stats = {label: LoadStats.joined(parts) for label, parts in counts.items()}
        jobs = TrainingJobs(scenario, options, stats, prices, keys)
        which = _whole(jobs, warm, scenario)
        steps = keys[jobs.rows[which, 0, 0], 0].tolist()
        iterations = _iterations(scenario, jobs, list(stats), which, progress)
    return RunResult(
        scenario,
        result_rows(labels, columns, memory, warm, iterations),
        record_table(labels, columns),
        [{"policy": label} | memory[label].to_dict() for label in labels],
        workload.label,
        workload.trace.meta.to_dict(),
        workload.trace.digest,
        result_notes(scenario, workload, warm, memory, replays, jobs),
        iteration_table(labels, iterations, steps) if iterations else None,
    )


def _whole(jobs: TrainingJobs, warm: NDArray[np.bool_], scenario: Scenario) -> list[int]:
    """Return the iterations all of whose records count."""
    spec = scenario.training
    found = np.flatnonzero(warm[jobs.rows].all(axis=(1, 2))).tolist()
    return found if spec is None else found[: spec.iterations]


def _iterations(
    scenario: Scenario,
    jobs: TrainingJobs,
    labels: list[str],
    which: list[int],
    progress: Progress | None,
) -> dict[str, list[Iteration]]:
    """Time every iteration of every policy; each policy's run begins at time zero."""
    engine = engine_of(scenario)
    found: dict[str, list[Iteration]] = {label: [] for label in labels}
    done = 0
    for label in labels:
        start = 0.0
        for iteration in which:
            times = engine(jobs.job(label, iteration, start))
            start += times.iteration_s
            found[label].append(jobs.measure(times))
            done += 1
            if progress is not None:
                progress("arranging iterations", done, len(labels) * len(which))
    return found


def _layout(scenario: Scenario) -> EPLayout:
    ep = scenario.ep
    return EPLayout(
        ep.ranks,
        scenario.model.num_experts,
        ep.slots_per_rank,
        min(scenario.domain_size, ep.ranks),
    )


def _replays(scenario: Scenario, layout: EPLayout, options: LayerOptions) -> list[PolicyReplay]:
    """Make the listed policies, and the references under names no label can have."""
    wanted = [(spec.label, spec.name, spec.options) for spec in scenario.policies]
    wanted += [(reference(name), name, {}) for name in _REFERENCES]
    found = []
    for label, name, given in wanted:
        policy = get_policy(name, layout, **given)
        if takes_cost(policy):
            cost = cost_model(scenario.model, scenario.rack, policy.price(), options)
            policy = get_policy(name, layout, **{"cost": cost, **given})
        found.append(PolicyReplay(label, policy, options.tile_rows))
    return found


def _layer_options(scenario: Scenario, workload: Workload) -> LayerOptions:
    engine = scenario.engine
    return LayerOptions(
        tokens_per_rank=workload.trace.meta.tokens_per_rank,
        phase=workload.phase,
        sequence_length=scenario.workload.sequence_length,
        weight_dtype=engine.weight_dtype,
        dispatch_dtype=engine.dispatch_dtype,
        combine_dtype=engine.combine_dtype,
        recompute=engine.recompute,
        tile_rows=engine.tile_rows,
        relay=engine.relay,
        overlap=engine.overlap,
        restore=engine.restore,
    )


def _columns(chunk: Chunk, times: LayerTimes) -> dict[str, NDArray[Any]]:
    """Collect one chunk's columns of the result table."""
    stats = chunk.stats
    pairs = stats.pairs  # int64: the largest times the ranks can leave the int32 that is stored
    total = pairs.sum(axis=1)
    ranks = pairs.shape[1]
    remote = (stats.near_sent + stats.far_sent).sum(axis=1)
    floor = np.maximum(total, 1)
    return {
        "step": chunk.step,
        "micro_batch": chunk.micro_batch,
        "layer": chunk.layer,
        "warm": chunk.warm.copy(),
        "imbalance_before": chunk.imbalance_before,
        "imbalance": np.where(total > 0, pairs.max(axis=1) * ranks / floor, 1.0),
        "layer_time_s": times.layer_s,
        "forward_s": times.forward_s,
        "backward_s": times.backward_s,
        "exposed_overhead_s": times.exposed_overhead_s,
        **{f"{name}_s": values for name, values in times.critical.items()},
        "replicas": stats.replicas.copy(),
        "max_fanout": stats.max_fanout.copy(),
        "remote_fraction": remote / floor,
        "rank_pairs": pairs.astype(np.int32),
    }


def _join(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _warm(
    scenario: Scenario, replays: list[PolicyReplay], columns: dict[str, dict[str, NDArray[Any]]]
) -> NDArray[np.bool_]:
    """Say which records count: those for which every policy had the history it asks for."""
    every = next(iter(columns.values()))["warm"]
    if scenario.engine.warmup == "include":
        return np.ones(len(every), np.bool_)
    warm = np.logical_and.reduce([part["warm"] for part in columns.values()])
    if not warm.any():
        slowest = min(replays, key=lambda item: int(columns[item.label]["warm"].sum()))
        cadence = slowest.policy.cadence_steps
        had = f"{columns[slowest.label]['warm'].sum()} of {len(every)} records warm"
        shorter = "" if cadence is None else "give it a shorter cadence, "
        raise ScenarioError(
            f"no record is left after the warm-up of policy {slowest.label}",
            file=scenario.source_path,
            place="policies",
            value=had if cadence is None else f"cadence_steps {cadence}, {had}",
            remedy=f"{shorter}replay a longer trace, or set engine.warmup: include",
        )
    return np.asarray(warm)


def _memory(
    scenario: Scenario,
    layout: EPLayout,
    part: dict[str, NDArray[Any]],
    warm: NDArray[np.bool_],
    options: LayerOptions,
    price: DecisionPrice,
) -> MemoryUse:
    """Account for one policy's memory over the records that count."""
    positions = np.stack((part["step"], part["micro_batch"]))[:, warm]
    groups = np.unique(positions, axis=1, return_inverse=True)[1].ravel()
    return memory_use(
        scenario.model,
        scenario.rack,
        layout,
        part["rank_pairs"][warm],
        options,
        transport=price.transport,
        prefetched=price.prefetched,
        groups=groups,
        pipeline_stages=scenario.ep.pipeline_stages,
        data_parallel=scenario.ep.data_parallel,
    )


def _check_memory(memory: dict[str, MemoryUse]) -> None:
    """Refuse a run in which no policy fits; one that does not is told in the notes."""
    label, least = min(memory.items(), key=lambda item: item[1].total)
    if not least.fits:
        least.check(label)
