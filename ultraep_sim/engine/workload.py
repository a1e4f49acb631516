"""From a scenario to the records a policy is given: cut, spread over the ranks, rescaled."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import ScenarioError, TraceError
from ..trace import Record, Trace, load_trace
from ..trace.container import Block
from ..trace.regroup import regrouped
from .layer import Phase

if TYPE_CHECKING:
    from ..scenario import Scenario


_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Workload:
    """What is replayed.

    Attributes
    ----------
    trace : Trace
        One row a rank of the EP group, rescaled where the scenario asks for it.
    layers : frozenset of int or None
        Layers to replay; None for all.
    phase : str
        ``training`` or ``prefill``.
    label : str
        What the numbers rest on, for every table and plot.
    step_every : int
        Sampling of the trace: steps between two recorded ones.
    """

    trace: Trace
    layers: frozenset[int] | None
    phase: Phase
    label: str
    step_every: int

    @property
    def sampled_layers(self) -> list[int] | None:
        """Layers that are left of the trace's, by its sampling or by the slice; None for all."""
        found: list[int] | None = self.trace.meta.sampling.get("layers")
        if self.layers is None:
            return found
        return sorted(self.layers if found is None else self.layers & set(found))

    @property
    def num_records(self) -> int:
        """Records that will be replayed."""
        if self.layers is None:
            return self.trace.num_records
        layers = sorted(self.layers)
        return sum(int(np.isin(keys[:, 2], layers).sum()) for keys in self.trace.key_blocks())

    def __iter__(self) -> Iterator[Record]:
        for record in self.trace:
            if self.layers is None or record.layer in self.layers:
                yield record

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the records, as many at a time as make a load matrix of some megabytes."""
        meta = self.trace.meta
        most = max(1, _BLOCK_BYTES // (4 * meta.source_ranks * meta.num_experts))
        layers = None if self.layers is None else sorted(self.layers)
        with closing(self.trace.blocks(most)) as blocks:
            for keys, loads in blocks:
                kept = slice(None) if layers is None else np.isin(keys[:, 2], layers)
                if len(keys[kept]):
                    yield Block(keys[kept], loads[kept])


def make_workload(scenario: Scenario) -> Workload:
    """Open or synthesize what a scenario replays.

    Raises
    ------
    TraceError
        If the trace cannot be read.
    ScenarioError
        If it does not fit the scenario's model, or the slice leaves nothing.
    """
    spec = scenario.workload
    trace = _synthetic(scenario) if spec.trace is None else load_trace(spec.trace)
    _check_model(scenario, trace)
    _check_ranks(trace, scenario)
    recorded_layers = {int(layer) for layer in trace.layers}
    if spec.steps is not None:
        trace = trace.select(steps=slice(*spec.steps))
    trace = _in_global_batches(scenario, trace).with_sources(scenario.ep.ranks)
    if spec.tokens_per_rank is not None and spec.tokens_per_rank != trace.meta.tokens_per_rank:
        trace = trace.rescaled(spec.tokens_per_rank)
    layers = None if spec.layers is None else frozenset(spec.layers)
    workload = Workload(
        trace,
        layers,
        spec.phase or cast(Phase, trace.meta.phase),
        _label(trace),
        int(trace.meta.sampling.get("step_every", 1)),
    )
    if layers and not layers <= recorded_layers:
        raise ScenarioError(
            "the trace has no such layer",
            file=scenario.source_path,
            place="workload.layers",
            value=min(layers - recorded_layers),
            remedy=f"it has {min(recorded_layers)} to {max(recorded_layers)}",
        )
    if workload.num_records == 0:
        raise ScenarioError(
            "the slice leaves no record",
            file=scenario.source_path,
            place="workload.steps",
            value=spec.steps,
            remedy="see `ultraep-sim trace info` for the steps there are",
        )
    return workload


def _synthetic(scenario: Scenario) -> Trace:
    spec = scenario.workload.synthetic
    if spec is None or scenario.workload.tokens_per_rank is None:
        raise ScenarioError("give a trace, or synthetic with tokens_per_rank", place="workload")
    from ..trace import synthesize

    return synthesize(
        num_experts=scenario.model.num_experts,
        top_k=scenario.model.top_k,
        num_layers=spec.layers,
        steps=spec.steps,
        source_ranks=scenario.ep.ranks,
        tokens_per_rank=scenario.workload.tokens_per_rank,
        imbalance=spec.imbalance,
        at_ranks=scenario.ep.ranks,
        phase=scenario.workload.phase or "training",
        drift=spec.drift,
        noise=spec.noise,
        source_noise=spec.source_noise,
        micro_batches=global_batch(scenario) or 1,
        seed=scenario.seed,
    )


def global_batch(scenario: Scenario) -> int | None:
    """Micro-batches of an iteration that the trace must hold; None where layers are timed."""
    spec = scenario.training
    if spec is None:
        return None
    own = spec.replica_loads == "own"
    return spec.micro_batches * (scenario.ep.data_parallel if own else 1)


def _in_global_batches(scenario: Scenario, trace: Trace) -> Trace:
    """Let the trace's micro-batches make iterations of the size the scenario asks for."""
    wanted = global_batch(scenario)
    if wanted is None or len(trace.micro_batches) == wanted:
        return trace
    try:
        return regrouped(trace, wanted)
    except TraceError as error:
        remedy = error.remedy
        if scenario.training is not None and scenario.training.replica_loads == "own":
            remedy = f"{remedy}; or set training.replica_loads: shared"
        raise ScenarioError(
            f"{error.problem}, and an iteration takes {wanted}",
            file=scenario.source_path,
            place="training.micro_batches",
            value=scenario.training.micro_batches if scenario.training else None,
            remedy=remedy,
        ) from error


def _check_model(scenario: Scenario, trace: Trace) -> None:
    model, meta = scenario.model, trace.meta
    pairs = (("experts", meta.num_experts, model.num_experts), ("top_k", meta.top_k, model.top_k))
    for name, has, wants in pairs:
        if has != wants:
            raise ScenarioError(
                f"the trace's {name} is not that of model {model.name} ({wants})",
                file=scenario.workload.trace,
                place=name,
                value=has,
                remedy="choose a model or a trace that fit each other",
            )


def _check_ranks(trace: Trace, scenario: Scenario) -> None:
    """Refuse the rows of some ranks: they are not the load of the group.

    Told how many tokens a rank has, the replay scales them on purpose, and the label says so.
    """
    ranks = trace.meta.sampling.get("ranks")
    if ranks is None or scenario.workload.tokens_per_rank is not None:
        return
    raise ScenarioError(
        f"the trace has the rows of {len(ranks)} source ranks only, not the load of the group",
        file=scenario.workload.trace,
        place="metadata.sampling.ranks",
        value=ranks,
        remedy="replay the whole trace, or set workload.tokens_per_rank to let these ranks "
        "stand for all",
    )


def sampling_notes(trace: Trace) -> list[str]:
    """Say what it means that the trace is a sample."""
    sampling, notes = trace.meta.sampling, []
    if every := int(sampling.get("step_every", 1)) - 1:
        notes.append(f"the trace has one step in {every + 1}: means are over those")
    if "layers" in sampling:
        there = f"{len(sampling['layers'])} of {trace.meta.num_layers} layers"
        notes.append(f"the trace has {there}: means are over those, not over the model")
    if "ranks" in sampling:
        some = len(sampling["ranks"])
        notes.append(f"{some} source ranks of the trace stand for the whole group, by their share")
    return notes


def _label(trace: Trace) -> str:
    """Say in one line what the loads are and what was done to them."""
    meta = trace.meta
    parts = [f"{meta.kind}: {meta.model}"]
    if "sources" in meta.notes:
        parts.append(f"sources: {meta.notes['sources']}")
    if "regrouped" in meta.notes:
        count = len(trace.micro_batches)
        parts.append(f"{count} consecutive micro-batches count as one global batch")
    if "rescaled_to" in meta.notes:
        was = meta.notes["rescaled_to"].get("from")
        parts.append(f"rescaled from {was} to {meta.tokens_per_rank} tokens a rank")
    return "; ".join(parts)
