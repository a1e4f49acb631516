"""Run a scenario: replay its records through its policies, time every layer, sum up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import ScenarioError
from ..model.draws import under_draw
from .geometry import geometry
from .in_flight import in_flight
from .layer import LayerOptions
from .memory import MemoryUse, memory_use
from .replay import PolicyReplay
from .replayed import Progress, replay_scenario
from .result_files import write_result
from .shares import Checkpoint
from .spill import Spill
from .stage_memory import stages_of
from .streamed import counted, hottest
from .summary import iteration_table, result_notes, result_rows
from .training import Iteration, TrainingJobs, engine_of

if TYPE_CHECKING:
    from ..scenario import Scenario


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
        ``pipeline_idle``, ``sync_exposed``; where GPUs are lost ``goodput``, ``restarts``,
        ``campaign_h``.
    spill : Spill
        What the replay found of every record, on disk.
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
    checkpoint : Checkpoint or None
        Shares kept for a run that is killed; removed once the result is written.
    """

    scenario: Scenario
    rows: list[dict[str, Any]]
    spill: Spill
    memory: list[dict[str, Any]]
    workload_label: str
    trace_meta: dict[str, Any]
    trace_digest: str
    notes: list[str]
    iterations: pa.Table | None = None
    checkpoint: Checkpoint | None = None

    FILES: ClassVar = ("result.parquet", "summary.json", "scenario.yaml")

    def write(self, directory: str | Path, command: Sequence[str] = ()) -> Path:
        """Write ``result.parquet``, ``summary.json`` and the resolved ``scenario.yaml``.

        Parameters
        ----------
        directory : str or Path
            Made if it does not exist; files of an earlier run in it are replaced.
        command : sequence of str
            How the run was started, for the summary.
        """
        tables: dict[str, pa.Table | Iterator[pa.Table]] = {"result": self._blocks()}
        if self.iterations is not None:
            tables["iterations"] = self.iterations
        said = {
            "rows": self.rows,
            "workload": self.workload_label,
            "trace": {"digest": self.trace_digest, "meta": self.trace_meta},
            "memory": self.memory,
            "notes": self.notes,
        }
        written = write_result(directory, self.scenario, tables, said, command)
        if self.checkpoint is not None:
            self.checkpoint.remove()
        return written

    @property
    def records(self) -> pa.Table:
        """The content of ``result.parquet`` in memory: one row a (policy, record)."""
        return pa.concat_tables(self._blocks())

    def _blocks(self) -> Iterator[pa.Table]:
        return self.spill.blocks([spec.label for spec in self.scenario.policies])


@under_draw
def run_scenario(
    scenario: Scenario,
    *,
    progress: Progress | None = None,
    jobs: int = 1,
    directory: str | Path | None = None,
) -> RunResult:
    """Run a scenario.

    Parameters
    ----------
    scenario : Scenario
    progress : callable, optional
        Called as ``progress(what, done, total)`` as records are replayed.
    jobs : int
        Processes that share the replay. The result does not depend on it.
    directory : str or Path, optional
        Where the result will be written; a run that is killed leaves its finished shares there,
        and the next one of the same scenario, trace and code goes on from them.

    Returns
    -------
    RunResult

    Raises
    ------
    UltraEPSimError
        If the trace, a policy or the scenario cannot be used.
    """
    folder = None if directory is None else Path(directory)
    done = replay_scenario(scenario, progress, jobs=jobs, directory=folder)
    labels = [spec.label for spec in scenario.policies]
    memory = {
        item.label: _memory(scenario, item, done.records, done.warm, done.options)
        for item in done.replays
        if item.label in labels
    }
    _check_memory(memory)
    made, steps = None, []
    iterations: dict[str, list[Iteration]] = {}
    if scenario.training is not None:
        made, which = done.jobs(), done.iterations()
        steps = [done.step_of(made, iteration) for iteration in which]
        iterations = _iterations(
            scenario, made, [item.label for item in done.replays], which, progress
        )
    workload = done.workload
    return RunResult(
        scenario,
        result_rows(labels, done.records, memory, done.warm, iterations, made),
        done.records,
        [{"policy": label} | memory[label].to_dict() for label in labels],
        workload.label,
        workload.trace.meta.to_dict(),
        workload.trace.digest,
        result_notes(scenario, workload, done.warm, memory, done.replays, made),
        iteration_table(labels, iterations, steps) if iterations else None,
        done.checkpoint,
    )


def training_jobs(
    scenario: Scenario, *, progress: Progress | None = None
) -> tuple[TrainingJobs, list[int]]:
    """Replay a scenario and return its iterations, not yet arranged in time.

    Parameters
    ----------
    scenario : Scenario
        With a training section.
    progress : callable, optional
        As in `run_scenario`.

    Returns
    -------
    TrainingJobs
    list of int
        The iterations for which every policy had the history it asks for.

    Raises
    ------
    UltraEPSimError
        If the trace, a policy or the scenario cannot be used.
    """
    if scenario.training is None:
        raise ScenarioError(
            "the scenario times single layers; it has no iterations",
            file=scenario.source_path,
            place="training",
            remedy="add a training section, for example training: {micro_batches: 8}",
        )
    done = replay_scenario(scenario, progress)
    return done.jobs(), done.iterations()


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
            found[label].append(jobs.measure(label, times))
            done += 1
            if progress is not None:
                progress("arranging iterations", done, len(labels) * len(which))
    return found


def _memory(
    scenario: Scenario,
    item: PolicyReplay,
    records: Spill,
    warm: NDArray[np.bool_],
    options: LayerOptions,
) -> MemoryUse:
    """Account for one policy's memory over the records that count."""
    steps, micro_batches, counts = (
        records.parts(item.label, name) for name in ("step", "micro_batch", "rank_pairs")
    )
    positions = (np.stack(pair, axis=1) for pair in zip(steps, micro_batches, strict=True))
    pairs, groups = hottest(counted(positions, warm), counted(counts, warm))
    price = item.policy.price()
    return memory_use(
        scenario.model,
        scenario.rack,
        item.policy.layout,
        pairs,
        options,
        transport=price.transport,
        prefetched=price.prefetched,
        groups=groups,
        pipeline_stages=scenario.ep.pipeline_stages,
        data_parallel=scenario.ep.data_parallel,
        **_stages(scenario),
    )


def _stages(scenario: Scenario) -> dict[str, Any]:
    """Say what each stage holds, and how much its schedule keeps in flight."""
    spec = scenario.training
    if spec is None:
        return {}
    place = geometry(scenario)
    return {
        "stage_layers": stages_of(place.moe, place.dense, place.stages),
        "in_flight": in_flight(
            spec.schedule,
            scenario.engine.overlap,
            place.stages,
            place.chunks,
            place.micro_batches,
        ),
    }


def _check_memory(memory: dict[str, MemoryUse]) -> None:
    """Refuse a run in which no policy fits; one that does not is told in the notes."""
    label, least = min(memory.items(), key=lambda item: item[1].total)
    if not least.fits:
        least.check(label)
