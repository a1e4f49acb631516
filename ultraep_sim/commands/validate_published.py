"""The suites of ``ultraep-sim validate`` that compare with published figures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ultraep_sim.commands.console import print_json, print_renderable, progress_bars

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

SUITES = ("training", "breakdown", "transfers", "serving")

_TRAINING = """\
Throughput in TFLOPS per GPU (model FLOPs, no recompute counted). Given: the ideal throughput, and
the imbalance under none and eplb, which fix the load dynamics. Errors are over published, less one.
plain law: 1 + s (I - 1) with the published imbalance. mechanisms: the simulator's layers, nothing
fitted. uneven: real routing is slower than forced routing of the same imbalance, by what the
published layer breakdown says. fitted: one overhead a class of policies more; left out: without
this model in that fit."""
_BREAKDOWN = """\
One MoE layer of Qwen3-235B, training at EP64. plain law: the ideal row times the published
imbalance. uneven: what the forward rows cost beyond their imbalance, applied backward only."""

_SERVING = """\
Prefill, EPLB every 50 batches. Fitted: a mean prompt length a workload (to the rate of ideal), the
load dynamics (to the imbalance of none; in the variant fitted, to that of eplb as well). GLM-4.7
takes Qwen3's lengths. Published rates are pixel reads, +-2 %. Errors are over published, less one.
plain law: 1 / (1 + s (I - 1)) with the published imbalance, s from the steps of ideal. Searches
take minutes: what docs/refresh_serving.py found is shown."""


def show(suite: str, as_json: bool) -> None:
    """Run one suite and print it."""
    module = import_module(f"ultraep_sim.validate.{suite}")
    with progress_bars() as progress:
        found: Any = module.run(progress=progress)
    if as_json:
        body = found if isinstance(found, dict) else {"rows": found}
        print_json({"suite": suite, **body})
    elif suite == "transfers":
        print_renderable(*module.show(found))
    else:
        print_renderable(*_TOLD[suite](found))


def _training(found: dict[str, list[dict[str, Any]]]) -> list[RenderableType]:
    from rich.text import Text

    from ultraep_sim.validate.show import ACCURACY, IDEAL, TRAINING, table

    return [
        Text("Published training throughput", "bold"),
        table(found["rows"], TRAINING),
        Text(_TRAINING),
        Text("\nErrors over all rows but ideal, by what is not published", "bold"),
        table(found["accuracy"], ACCURACY),
        Text("\nIdeal throughput with nothing given", "bold"),
        table(found["ideal"], IDEAL),
    ]


def _breakdown(rows: list[dict[str, Any]]) -> list[RenderableType]:
    from rich.text import Text

    from ultraep_sim.validate.show import BREAKDOWN, table

    return [
        Text("Published layer breakdown", "bold"),
        table(rows, BREAKDOWN),
        Text(_BREAKDOWN),
    ]


def _serving(found: dict[str, list[dict[str, Any]]]) -> list[RenderableType]:
    from rich.text import Text

    from ultraep_sim.validate.show import ORDERS, SERVING, table

    return [
        Text("Published prefill serving", "bold"),
        table(found["rows"], SERVING),
        Text(_SERVING),
        Text("\nOrder of the policies by request rate", "bold"),
        table(found["orders"], ORDERS),
    ]


_TOLD: dict[str, Callable[[Any], list[RenderableType]]] = {
    "training": _training,
    "breakdown": _breakdown,
    "serving": _serving,
}
