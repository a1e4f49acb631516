"""A scenario's records, planned by all of its policies, and the time of every layer.

`none` and `ideal` are always replayed, because every figure is told relative to them; they stand
in a result only where the scenario lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ScenarioError
from ..planning import EPLayout
from ..planning.stats import LoadStats
from ..policies import get_policy
from ..policies.registry import takes_cost
from ..scenario.presets import SCENARIO_SPEEDS
from .cost import cost_model
from .layer import LayerOptions, LayerTimes, Phase, layer_times
from .replay import Chunk, PolicyReplay, refuse_missing_layers, replay_blocks
from .shares import Checkpoint, Share, divide, merge, run_shares, unfinished
from .spill import Spill
from .summary import reference
from .training import TrainingJobs, conditions
from .workload import Workload, make_workload

if TYPE_CHECKING:
    from ..scenario import Scenario
    from ..scenario.schema import PolicySpec

Progress = Callable[[str, int, int], None]

_REFERENCES = ("none", "ideal")


@dataclass(frozen=True)
class Replayed:
    """All that is known once every policy has planned every record.

    Attributes
    ----------
    scenario, workload, options : Scenario, Workload, LayerOptions
    replays : list of PolicyReplay
        The listed policies and the references.
    records : Spill
        By policy: every column of the record table, on disk.
    warm : bool [records]
        Which records count in means.
    checkpoint : Checkpoint or None
        What to remove once the result is written.
    """

    scenario: Scenario
    workload: Workload
    options: LayerOptions
    replays: list[PolicyReplay]
    records: Spill
    warm: NDArray[np.bool_]
    checkpoint: Checkpoint | None = None

    @cached_property
    def stats(self) -> dict[str, LoadStats]:
        """Counts of every record by policy, in memory; empty where layers are timed."""
        if self.scenario.training is None:
            return {}
        return {
            item.label: _unflattened(
                {
                    f.name: self.records.column(counts_of(item.label), f.name)
                    for f in fields(LoadStats)
                }
            )
            for item in self.replays
        }

    def jobs(self) -> TrainingJobs:
        """Return the iterations, not yet arranged in time."""
        prices = {item.label: item.policy.price() for item in self.replays}
        return TrainingJobs(self.scenario, self.options, self.stats, prices, self._keys())

    def iterations(self) -> list[int]:
        """Return the iterations all of whose records count."""
        spec, rows = self.scenario.training, self.jobs().rows
        found = np.flatnonzero(self.warm[rows].all(axis=(1, 2))).tolist()
        if not found:
            raise ScenarioError(
                "no whole iteration is left after the warm-up of the policies",
                file=self.scenario.source_path,
                place="training",
                value=f"{len(rows)} iterations in the trace",
                remedy="replay a longer trace, use fewer micro-batches, or set engine.warmup: "
                "include",
            )
        return found if spec is None else found[: spec.iterations]

    def step_of(self, jobs: TrainingJobs, iteration: int) -> int:
        """Return the step of the trace that an iteration replays."""
        return int(self._keys()[jobs.rows[iteration, 0, 0], 0])

    def _keys(self) -> NDArray[np.int64]:
        label = self.replays[0].label
        names = ("step", "micro_batch", "layer")
        return np.stack([self.records.column(label, name) for name in names], axis=1)


def replay_scenario(
    scenario: Scenario,
    progress: Progress | None = None,
    *,
    jobs: int = 1,
    directory: Path | None = None,
) -> Replayed:
    """Replay a scenario's records through its policies and the references.

    Parameters
    ----------
    scenario : Scenario
    progress : callable, optional
        Called as ``progress("replaying", records done, records)``.
    jobs : int
        Processes that share the replay; what is found does not depend on it.
    directory : Path, optional
        Where finished shares are kept for a run that is killed, see `engine.shares`.

    Raises
    ------
    UltraEPSimError
        If the trace, a policy or the scenario cannot be used.
    """
    workload = make_workload(scenario)
    options = layer_options(scenario, workload.trace.meta.tokens_per_rank, workload.phase)
    replays = policy_replays(scenario, options)
    refuse_missing_layers(replays, workload.sampled_layers)
    labels = [item.label for item in replays]
    policies = [item.policy for item in replays]
    shares = divide(workload, policies, jobs) if jobs > 1 or directory else [Share()]
    checkpoint = None
    if len(shares) > 1 and directory is not None:
        checkpoint = Checkpoint(directory, scenario, workload.trace.digest, shares)
    total = workload.num_records

    def report(done: int) -> None:
        if progress is not None:
            progress("replaying", done, total)

    tables = [*labels, *(counts_of(label) for label in labels if scenario.training is not None)]
    records = Spill(tables)
    if len(shares) == 1:
        replay_into(records, scenario, workload, replays, options, report)
    else:
        with _folder_of(checkpoint) as folder:
            _replay_shares(scenario, shares, folder, jobs, report)
            merge([Spill(tables, folder / f"{at:05d}") for at in range(len(shares))], records)
    warm = _warm(scenario, replays, records, labels)
    return Replayed(scenario, workload, options, replays, records, warm, checkpoint)


def replay_into(
    records: Spill,
    scenario: Scenario,
    workload: Workload,
    replays: list[PolicyReplay],
    options: LayerOptions,
    report: Callable[[int], None],
) -> None:
    """Replay a workload, or a share of it, and put what is found on disk."""
    prices = {item.label: item.policy.price() for item in replays}
    done = 0

    def on_chunk(chunk: Chunk) -> None:
        label = chunk.label
        times = layer_times(scenario.model, scenario.rack, chunk.stats, prices[label], options)
        columns = _columns(chunk, times)
        records.append(label, columns)
        if scenario.training is not None:
            packed = chunk.stats.packed()
            counts = _flattened(packed)
            where = {name: columns[name] for name in ("step", "micro_batch", "layer")}
            records.append(counts_of(label), where | counts)

    def on_records(count: int) -> None:
        nonlocal done
        done += count
        report(done)

    with closing(workload.blocks()) as blocks:
        replay_blocks(
            blocks, replays, on_chunk, step_every=workload.step_every, on_records=on_records
        )
    records.close()


def replay_share(scenario: Scenario, share: Share, folder: Path) -> int:
    """Replay a share of a scenario into a folder; return its records."""
    workload = make_workload(scenario)
    options = layer_options(scenario, workload.trace.meta.tokens_per_rank, workload.phase)
    if share.steps is not None:
        part = workload.trace.select(steps=slice(*share.steps))
        workload = replace(workload, trace=part)
    if share.layers is not None:
        workload = replace(workload, layers=frozenset(share.layers))
    replays = policy_replays(scenario, options)
    labels = [item.label for item in replays]
    tables = [*labels, *(counts_of(label) for label in labels if scenario.training is not None)]
    records = Spill(tables, folder)
    replay_into(records, scenario, workload, replays, options, lambda _done: None)
    return records.num_records


def counts_of(label: str) -> str:
    """Name the table of a policy's counts, which only iterations need."""
    return f"{label}\0counts"


def _flattened(stats: LoadStats) -> dict[str, NDArray[Any]]:
    """Return the columns by name; those of the tiles run over ranks and instances.

    Lists of lists would be clearer, but `pyarrow.Table.take` gives wrong rows of a slice of them.
    """
    columns = {f.name: getattr(stats, f.name) for f in fields(LoadStats)}
    records, ranks, instances = stats.tiles.shape
    return columns | {"tiles": stats.tiles.reshape(records, ranks * instances)}


def _unflattened(columns: dict[str, NDArray[Any]]) -> LoadStats:
    """Return the counts whose columns `_flattened` gave."""
    records, ranks = columns["pairs"].shape
    tiles = columns["tiles"]
    tiles = tiles.reshape(records, ranks, tiles.shape[1] // ranks)
    return LoadStats(**columns | {"tiles": tiles})


@contextmanager
def _folder_of(checkpoint: Checkpoint | None) -> Iterator[Path]:
    if checkpoint is not None:
        yield checkpoint.folder
        return
    with TemporaryDirectory(prefix="ultraep-sim-") as folder:
        yield Path(folder)


def _replay_shares(
    scenario: Scenario, shares: list[Share], folder: Path, jobs: int, report: Callable[[int], None]
) -> None:
    """Replay the shares that are not there yet."""
    missing = unfinished(folder, len(shares))
    places = [folder / f"{at:05d}" for at in missing]
    wanted = [shares[at] for at in missing]
    done = 0
    for count in run_shares(replay_share, scenario, wanted, places, jobs):
        done += count
        report(done)


def _layout(scenario: Scenario) -> EPLayout:
    ep = scenario.ep
    return EPLayout(
        ep.ranks,
        scenario.model.num_experts,
        ep.slots_per_rank,
        min(scenario.domain_size, ep.ranks),
    )


def policy_replays(
    scenario: Scenario, options: LayerOptions, *, references: bool = True
) -> list[PolicyReplay]:
    """Make the listed policies, and the references under names no label can have.

    Parameters
    ----------
    scenario : Scenario
    options : LayerOptions
        What a policy that weighs costs is told.
    references : bool
        Whether `none` and `ideal` are made as well.
    """
    layout = _layout(scenario)
    wanted = [(spec.label, spec.name, _options(scenario, spec)) for spec in scenario.policies]
    if references:
        wanted += [(reference(name), name, {}) for name in _REFERENCES]
    spec = scenario.training
    top_k = scenario.model.top_k if scenario.engine.deduplicate else None
    found = []
    for label, name, given in wanted:
        policy = get_policy(name, layout, **given)
        if takes_cost(policy):
            cost = cost_model(scenario.model, scenario.rack, policy.price(), options)
            policy = get_policy(name, layout, **{"cost": cost, **given})
        trees = options.relay == "gain"
        found.append(
            PolicyReplay(
                label,
                policy,
                options.tile_rows,
                top_k=top_k,
                any_tree=trees,
                per_replica=None if spec is None else spec.micro_batches,
            )
        )
    return found


def _options(scenario: Scenario, spec: PolicySpec) -> dict[str, Any]:
    """Fill in the speeds of a policy that is to know how slow the scenario's GPUs are."""
    if spec.options.get("speeds") != SCENARIO_SPEEDS:
        return spec.options
    groups = scenario.ep.data_parallel * scenario.ep.pipeline_stages
    if scenario.stragglers is None or groups != 1:
        raise ScenarioError(
            "only one group with stragglers has speeds to plan by",
            file=scenario.source_path,
            place=f"policy {spec.label}: speeds",
            value=SCENARIO_SPEEDS,
            remedy="add stragglers, with one replica and one stage, or list the speeds",
        )
    return {**spec.options, "speeds": conditions(scenario).speeds()}


def layer_options(scenario: Scenario, tokens_per_rank: int, phase: Phase) -> LayerOptions:
    """Say how the layers of a scenario run, with so many tokens a rank."""
    engine = scenario.engine
    return LayerOptions(
        tokens_per_rank=tokens_per_rank,
        phase=phase,
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


def _warm(
    scenario: Scenario, replays: list[PolicyReplay], records: Spill, labels: list[str]
) -> NDArray[np.bool_]:
    """Say which records count: those for which every policy had the history it asks for."""
    warm = np.ones(records.num_records, np.bool_)
    if scenario.engine.warmup == "include":
        return warm
    had_it = {}
    for label in labels:
        own = records.column(label, "warm")
        had_it[label] = int(own.sum())
        warm &= own
    if not warm.any():
        slowest = min(replays, key=lambda item: had_it[item.label])
        cadence = slowest.policy.cadence_steps
        had = f"{had_it[slowest.label]} of {len(warm)} records warm"
        shorter = "" if cadence is None else "give it a shorter cadence, "
        raise ScenarioError(
            f"no record is left after the warm-up of policy {slowest.label}",
            file=scenario.source_path,
            place="policies",
            value=had if cadence is None else f"cadence_steps {cadence}, {had}",
            remedy=f"{shorter}replay a longer trace, or set engine.warmup: include",
        )
    return np.asarray(warm)
