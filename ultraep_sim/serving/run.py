"""Serve the requests of a scenario under each of its policies; a result directory of all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ..engine.result_files import write_result
from ..model.draws import under_draw
from .metrics import summarise
from .requests import Requests
from .server import OUTCOMES, Server, Service
from .setup import Setup, make_setup
from .step import STEP_COLUMNS, Step

if TYPE_CHECKING:
    from ..scenario import Scenario

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ServingResult:
    """What serving found.

    Attributes
    ----------
    scenario : Scenario
    rows : list of dict
        One a policy, see `ultraep_sim.serving.metrics.summarise`.
    steps : pyarrow.Table
        One row a (policy, step); the content of ``result.parquet``.
    requests : pyarrow.Table
        One row a (policy, request); the content of ``requests.parquet``.
    workload_label : str
        What the requests and their routing are.
    notes : list of str
    digest : str
        Of the requests.
    """

    scenario: Scenario
    rows: list[dict[str, Any]]
    steps: pa.Table
    requests: pa.Table
    workload_label: str
    notes: list[str]
    digest: str

    FILES: ClassVar = ("result.parquet", "requests.parquet", "summary.json", "scenario.yaml")

    def write(self, directory: str | Path, command: Sequence[str] = ()) -> Path:
        """Write ``result.parquet``, ``requests.parquet``, ``summary.json`` and ``scenario.yaml``.

        Parameters
        ----------
        directory : str or Path
            Made if it does not exist; files of an earlier run in it are replaced.
        command : sequence of str
            How the run was started, for the summary.
        """
        tables = {"result": self.steps, "requests": self.requests}
        said = {
            "rows": self.rows,
            "workload": self.workload_label,
            "requests": {"digest": self.digest},
            "notes": self.notes,
        }
        return write_result(directory, self.scenario, tables, said, command, ("simpy",))


@under_draw
def serve_scenario(scenario: Scenario, *, progress: Progress | None = None) -> ServingResult:
    """Serve a scenario's requests, the same ones under every policy.

    Parameters
    ----------
    scenario : Scenario
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each step.

    Raises
    ------
    UltraEPSimError
        If requests, routing, a policy or the memory do not do.
    """
    setup = make_setup(scenario)
    rows, steps, requests = [], [], []
    for replay in setup.replays():
        label, total = replay.label, len(setup.requests)
        watch = None if progress is None else _reporting(progress, f"serving {label}", total)
        service, model = setup.serve(replay, setup.requests, watch)
        rows.append(summarise(label, scenario, setup.requests, service, model.log))
        steps.append(_step_table(label, service, model.log))
        requests.append(_request_table(label, setup.requests, service))
    return ServingResult(
        scenario, rows, pa.concat_tables(steps), pa.concat_tables(requests),
        f"{setup.requests.label}; {setup.routing.describe()}",
        serving_notes(setup), setup.requests.digest(),
    )  # fmt: skip


def serving_notes(setup: Setup) -> list[str]:
    """Say what a reader of the numbers must know."""
    scenario, spec = setup.scenario, setup.scenario.serving
    assert spec is not None  # noqa: S101  (make_setup has seen it)
    moe, simulated = scenario.model.moe_layers, len(setup.routing.layers)
    notes = []
    if simulated < moe:
        notes.append(f"layers: sample({simulated}): they stand for all {moe} MoE layers")
    if spec.draw == "expected":
        notes.append("loads per expert, a source's share of them is the expected one")
    history = [r.label for r in setup.replays() if r.policy.cadence_steps is not None]
    if history:
        notes.append(
            f"{', '.join(history)} began with a window of full batches of the first mix as history"
        )
    notes.append(f"requests that arrive before {spec.warmup_s:g} s count nowhere")
    return notes


def _reporting(progress: Progress, what: str, total: int) -> Callable[[Server], bool]:
    def watch(server: Server) -> bool:
        progress(what, server.arrived - server.in_system, total)
        return False

    return watch


def _step_table(label: str, service: Service, log: Sequence[Step]) -> pa.Table:
    columns = {name: [getattr(step, name) for step in log] for name in STEP_COLUMNS}
    count = len(log)
    return pa.table(
        {
            "policy": pa.array([label] * count, pa.string()),
            "step": np.arange(count),
            "began_s": service.began_s,
            "waiting": service.waiting,
            **{
                name: np.asarray(values, np.int64 if name in _WHOLE else np.float64)
                for name, values in columns.items()
            },
        }
    )


_WHOLE = ("tokens", "chunks", "moved")


def _request_table(label: str, requests: Requests, service: Service) -> pa.Table:
    count = len(requests)
    names = pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), [label])
    outcome = pa.DictionaryArray.from_arrays(service.outcome, list(OUTCOMES))
    domain = pa.DictionaryArray.from_arrays(requests.domain, list(requests.domains))
    return pa.table(
        {
            "policy": names.cast(pa.string()),
            "arrival_s": requests.arrival_s,
            "tokens": requests.tokens,
            "cached": requests.cached,
            "domain": domain.cast(pa.string()),
            "rank": service.rank,
            "outcome": outcome.cast(pa.string()),
            "end_s": pa.array(service.end_s, from_pandas=True),
            "computed": service.computed,
        }
    )
