"""``ultraep-sim timeline``: one iteration under one policy, to look at; its critical path named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import (
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)
from ultraep_sim.errors import InputError, ScenarioError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ultraep_sim.commands.console import Report
    from ultraep_sim.engine.critical_path import CriticalPath
    from ultraep_sim.engine.event.kernels import Lane
    from ultraep_sim.engine.job import IterationTimes, Job
    from ultraep_sim.engine.memory_timeline import GroupMemory, MemoryTimeline
    from ultraep_sim.engine.replay import PolicyReplay
    from ultraep_sim.engine.replayed import Replayed
    from ultraep_sim.engine.training import TrainingJobs
    from ultraep_sim.report.blocks import Span
    from ultraep_sim.report.perfetto import ChromeTrace
    from ultraep_sim.scenario import Scenario

EPILOG = """\
\b
Examples:
  ultraep-sim timeline scenarios/glm-4.5-air-training.yaml --policy ultraep
  ultraep-sim timeline SCENARIO --policy none --out none.json.gz --plot none.png
  ultraep-sim timeline SCENARIO --policy eplb --plot eplb.png --layer 3 --micro-batch 0
  ultraep-sim timeline SCENARIO --json | jq .critical_path.phases

Open the trace at https://ui.perfetto.dev (it stays on your machine) or in chrome://tracing.
"""

#: More kernels than this and only the slowest rank of every stage of the replica on the critical
#: path gets threads of its own ...
ALL_RANKS = 300_000
#: ... and more than this in that replica and no rank does: the event engine would run for minutes.
ANY_RANK = 20_000_000
_PHASES_SHOWN, _LINES_SHOWN = 12, 24


def timeline(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="YAML file with training:.")],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A policy of the scenario, by name or label. [default: the first]"
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The trace, .json or .json.gz. [default: runs/<scenario name>/timeline.json]",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw the pipeline and one layer: FILE and FILE-layer, as .png and .svg.",
        ),
    ] = None,
    iteration: Annotated[
        int, typer.Option(metavar="N", help="Which iteration after the warm-up, from 0.")
    ] = 0,
    layer: Annotated[
        int | None,
        typer.Option(metavar="N", help="MoE layer of the plot. [default: the slowest]"),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Micro-batch of the plot. [default: the slowest]"),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a value. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Write the timeline of one training iteration, and name its critical path.

    Small iterations show every kernel of every rank; larger ones those of the slowest rank of
    each stage of one replica; the largest the forwards and backwards of every stage alone.
    """
    from ultraep_sim.report.style import stem_of
    from ultraep_sim.scenario import load_scenario

    path = given_path(scenario, "SCENARIO", "name a YAML file")
    chosen = load_scenario(path, sets or ())
    label = _label(chosen, policy)
    target = Path("runs") / chosen.name / "timeline.json" if out is None else _trace_file(out)
    picture = None if plot is None else given_path(plot, "--plot", "name a file, or leave it out")
    for file in (target, picture or target):
        file.parent.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        view = _view(chosen, label, iteration, progress)
        kernels = _write_trace(view, target)
        files = [target]
        if picture is not None:
            files += _draw(view, stem_of(picture), layer, micro_batch)
    if as_json:
        print_json(view.to_dict() | {"files": [str(file) for file in files]})
    else:
        _show(view)
    note(f"wrote {', '.join(str(file) for file in files)}; {kernels}")


@dataclass(frozen=True)
class _View:
    """One iteration of one policy, arranged in time."""

    done: Replayed
    jobs: TrainingJobs
    replay: PolicyReplay
    iteration: int
    job: Job
    times: IterationTimes

    @cached_property
    def path(self) -> CriticalPath:
        """The critical path."""
        from ultraep_sim.engine.critical_path import critical_path

        return critical_path(self.job, self.times)

    @cached_property
    def memory(self) -> MemoryTimeline:
        """Memory of every group."""
        from ultraep_sim.engine.memory_timeline import MemoryTimeline

        price = self.replay.policy.price()
        return MemoryTimeline(
            self.done.scenario.model,
            self.replay.policy.layout,
            self.done.options,
            self.jobs.place,
            self.times,
            lambda replica: self.jobs.pairs(self.replay.label, self.iteration, replica),
            transport=price.transport,
            prefetched=price.prefetched,
        )

    @cached_property
    def fullest(self) -> tuple[GroupMemory, int]:
        """The group and rank that need most memory."""
        return self.memory.fullest()

    @property
    def replica(self) -> int:
        """The replica the critical path last ran through."""
        found = [s.replica for s in self.path.segments if s.replica is not None]
        return found[-1] if found else 0

    def to_dict(self) -> dict[str, Any]:
        group, rank = self.fullest
        return {
            "scenario": self.done.scenario.name,
            "policy": self.replay.label,
            "step": self.done.step_of(self.jobs, self.iteration),
            "iteration_s": self.times.iteration_s,
            "critical_path": self.path.to_dict(),
            "fullest_rank": group.to_dict(rank),
        }


def _trace_file(out: str) -> Path:
    """Return the path of the trace; its name says whether it is compressed."""
    file = given_path(out, "--out", "name a file, or leave it out")
    if not file.name.endswith((".json", ".json.gz")):
        raise InputError(
            "a timeline is written as JSON",
            place="--out",
            value=out,
            remedy=f"name it {file.name.removesuffix('.gz').partition('.')[0]}.json or .json.gz",
        )
    return file


def _label(scenario: Scenario, wanted: str | None) -> str:
    """Return the label of the policy asked for."""
    from ultraep_sim.scenario.presets import did_you_mean

    if scenario.training is None:
        raise ScenarioError(
            "the scenario times single layers; it has no iterations",
            file=scenario.source_path,
            place="training",
            remedy="add a training section, for example training: {micro_batches: 8}",
        )
    kept = [s.label for s in scenario.policies if wanted is None or wanted in (s.label, s.name)]
    if not kept:
        known = [word for spec in scenario.policies for word in (spec.label, spec.name)]
        raise ScenarioError(
            f"the scenario {scenario.name} runs no such policy",
            place="--policy",
            value=wanted,
            remedy=did_you_mean(str(wanted), list(dict.fromkeys(known))),
        )
    return kept[0]


def _view(scenario: Scenario, label: str, number: int, progress: Report) -> _View:
    """Replay the scenario and arrange the iteration asked for, as a run does.

    All policies are replayed: the iterations are those for which each had its history.
    """
    from ultraep_sim.engine.replayed import replay_scenario
    from ultraep_sim.engine.training import engine_of

    done = replay_scenario(scenario, progress)
    jobs, which = done.jobs(), done.iterations()
    if not 0 <= number < len(which):
        raise ScenarioError(
            f"the workload has {len(which)} iterations after the warm-up",
            place="--iteration",
            value=number,
            remedy=f"give 0 to {len(which) - 1}" if which else "replay a longer trace",
        )
    replay = next(item for item in done.replays if item.label == label)
    engine, start_s = engine_of(scenario), 0.0
    # Spells come at simulated times: only they ask when an iteration starts.
    earlier = [] if jobs.conditions.static else which[:number]
    for count, before in enumerate(earlier, start=1):
        start_s += engine(jobs.job(label, before, start_s)).iteration_s
        progress("arranging iterations", count, len(earlier))
    job = jobs.job(label, which[number], start_s)
    return _View(done, jobs, replay, which[number], job, engine(job))


def _write_trace(view: _View, target: Path) -> str:
    """Write the trace; say which kernels are in it."""
    from ultraep_sim.engine.event import run_event
    from ultraep_sim.engine.job import PHASE_PART
    from ultraep_sim.engine.traffic import PhaseTraffic
    from ultraep_sim.report.perfetto import ChromeTrace

    job, price = view.job, view.replay.policy.price()
    traffic = PhaseTraffic(
        view.done.scenario.rack,
        view.done.stats[view.replay.label],
        lambda replica: view.jobs.positions(view.iteration, replica),
        job.stages,
        job.ranks,
        price.transport,
        _relayed(view),
    )
    layers = job.replicas * job.micro_batches * job.num_layers * job.ranks
    kernels = layers * len(PHASE_PART)
    with ChromeTrace(target, job.stages, job.ranks, traffic) as trace:
        trace.pipeline(view.times, job.finish_s)
        trace.critical(view.path, job.replicas * job.stages)
        for replica in range(job.replicas):
            for stage in range(job.stages):
                group = view.memory.group(replica, stage)
                trace.memory(group, int(group.peak.argmax()))
        if kernels <= ALL_RANKS:
            run_event(job, spans=trace.span)
            return "with the kernels of every rank"
        if kernels // job.replicas > ANY_RANK:
            return f"about {kernels:.0e} kernels: too many for the threads of ranks"
        _write_slowest(view, trace)
    return f"with the kernels of the slowest rank of every stage of replica {view.replica}"


def _relayed(view: _View) -> NDArray[np.bool_]:
    """Return the records whose weights the policy relayed."""
    from ultraep_sim.engine.phases import relayed_records

    scenario, stats = view.done.scenario, view.done.stats[view.replay.label]
    price = view.replay.policy.price()
    return relayed_records(scenario.model, scenario.rack, stats, price, view.done.options)


def _write_slowest(view: _View, trace: ChromeTrace) -> None:
    """Write what the slowest rank of every stage of the critical replica did."""
    from ultraep_sim.engine.event import run_event
    from ultraep_sim.engine.excerpts import one_replica

    alone = one_replica(view.job, view.replica)
    slowest = _slowest(alone)
    first = view.replica * alone.stages * alone.ranks

    def only(
        rank: int,
        lane: Lane,
        phase: str,
        start_s: float,
        end_s: float,
        micro_batch: int,
        layer: int,
    ) -> None:
        # What comes after the backwards waits for the other replicas too, and is drawn already.
        if rank in slowest and lane != "sync" and phase != "finish":
            trace.span(first + rank, lane, phase, start_s, end_s, micro_batch, layer)

    run_event(alone, spans=only)


def _slowest(job: Job) -> set[int]:
    """Return the rank with the most expert work in every stage of a job of one replica."""
    import numpy as np

    found = set()
    seconds = job.busy(0)["fwd_compute"].sum(axis=0)
    for stage in range(job.stages):
        work = sum(seconds[a:b].sum(axis=0) for a, b in job.layers[stage :: job.stages])
        found.add(stage * job.ranks + int(np.argmax(work)))
    return found


def _draw(view: _View, stem: Path, layer: int | None, micro_batch: int | None) -> list[Path]:
    """Draw the pipeline of the critical replica and one layer of it."""
    from ultraep_sim.engine.event import run_event
    from ultraep_sim.engine.excerpts import one_layer
    from ultraep_sim.report.blocks import Span
    from ultraep_sim.report.plot_layer_timeline import write_layer
    from ultraep_sim.report.plot_timeline import write_pipeline

    job, name = view.job, view.replay.label
    group = f"replica {view.replica} of {job.replicas}, stages of {job.ranks} ranks"
    source = f"Simulated: {view.done.scenario.name}, {group}, {job.micro_batches} micro-batches, "
    workload = f"Workload: {view.done.workload.label}."
    files = write_pipeline(
        stem,
        view.times,
        job.stages,
        replica=view.replica,
        finish_s=job.finish_s,
        path=view.path,
        title=f"One training iteration under {name}: {view.times.iteration_s:.3g} s",
        source=f"{source}{job.schedule}, overlap {job.overlap}. {workload}",
    )
    seconds = job.busy(view.replica)["fwd_compute"].max(axis=2)
    chosen = seconds[:, layer : layer + 1] if layer is not None else seconds
    if micro_batch is None and 0 <= (layer or 0) < job.num_layers:
        micro_batch = int(chosen.max(axis=1).argmax())
    if layer is None and micro_batch is not None and 0 <= micro_batch < job.micro_batches:
        layer = int(seconds[micro_batch].argmax())
    at = micro_batch or 0, layer or 0
    spans: list[Span] = []
    times = run_event(
        one_layer(job, view.replica, *at), spans=lambda *span: spans.append(Span(*span))
    )
    return files + write_layer(
        stem.with_name(stem.name + "-layer"),
        spans,
        times,
        title=f"MoE layer {at[1]} of micro-batch {at[0]} under {name}",
        source=f"Simulated: {view.done.scenario.name}, {group}. {workload}",
    )


def _show(view: _View) -> None:
    from rich.table import Table
    from rich.text import Text

    from ultraep_sim.engine.critical_path import describe

    total = view.times.iteration_s
    table = Table(box=None, pad_edge=False)
    table.add_column("phase on the critical path")
    for title in ("ms", "share", "slowest GPU"):
        table.add_column(title, justify="right", no_wrap=True)
    for phase in view.path.phases[:_PHASES_SHOWN]:
        who = "" if phase.gpu is None else f"{phase.gpu} ({100 * phase.gpu_share:.0f} %)"
        share = f"{100 * phase.seconds / total:.1f} %"
        table.add_row(phase.name, f"{1e3 * phase.seconds:.3f}", share, who)
    rest = sum(phase.seconds for phase in view.path.phases[_PHASES_SHOWN:])
    if rest:
        table.add_row("all others", f"{1e3 * rest:.3f}", f"{100 * rest / total:.1f} %", "")
    chain = describe(view.path)
    if len(chain) > _LINES_SHOWN:
        half = _LINES_SHOWN // 2
        left = len(chain) - 2 * half
        chain = [*chain[:half], f"... {left} more, see --json", *chain[-half:]]
    group, rank = view.fullest
    capacity = view.done.scenario.rack.gpu.hbm_GB.si
    print_renderable(
        Text(f"{view.done.scenario.name} under {view.replay.label}: {total:.4f} s", style="bold"),
        table,
        Text("\n" + "\n".join(chain), no_wrap=True, overflow="ignore"),
        Text(
            f"\nMemory: rank {rank} of stage {group.stage}, replica {group.replica} needs most, "
            f"{group.peak[rank] / 1e9:.1f} of {capacity / 1e9:.0f} GB, "
            f"at {group.peak_at_s[rank]:.4f} s."
        ),
    )
