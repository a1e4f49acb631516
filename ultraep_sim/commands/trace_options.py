"""What a person can say about a dump that the dump does not say; and writing of traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import note
from ultraep_sim.errors import InputError, ProfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ultraep_sim.trace.convert import Judged
    from ultraep_sim.trace.formats import Dump, ReadOptions

FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Format. [default: told by the content]"),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Model; a known one gives experts, top-k and layers where the dump does not."
    ),
]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Experts a token.")]
ExpertsOption = Annotated[int | None, typer.Option(help="Logical experts of a layer.")]
LayersOption = Annotated[int | None, typer.Option(help="MoE layers of the model.")]
PhaseOption = Annotated[
    str | None, typer.Option(help="training or prefill. [default: as the format is used]")
]
MapOption = Annotated[
    Path | None,
    typer.Option(
        "--map",
        metavar="FILE",
        help="Physical-to-logical map, [layers, physical] or [physical]: .npy, .npz, .pt or .json.",
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-step", help="Tokens of a step of a per-token dump. [default: one request]"
    ),
]
RepairOption = Annotated[
    list[str] | None,
    typer.Option("--repair", metavar="NAME", help="Apply a named repair. Repeatable, in order."),
]


def read_options(
    model: str | None,
    top_k: int | None,
    experts: int | None,
    layers: int | None,
    phase: str | None,
    placement: Path | None,
    tokens: int | None,
) -> ReadOptions:
    """Check what was typed and return it as `ReadOptions`.

    Raises
    ------
    InputError
        If a number is not positive, the phase is unknown or the map cannot be read.
    """
    from ultraep_sim.model.shapes import get_model
    from ultraep_sim.trace.formats import ReadOptions
    from ultraep_sim.trace.meta import PHASES

    typed = {
        "--top-k": top_k,
        "--experts": experts,
        "--layers": layers,
        "--tokens-per-step": tokens,
    }
    for name, value in typed.items():
        if value is not None and not 1 <= value < 2**31:
            raise InputError("must be at least 1", place=name, value=value, remedy="give a count")
    if phase is not None and phase not in PHASES:
        wanted = " or ".join(PHASES)
        raise InputError("is not a known phase", place="--phase", value=phase, remedy=wanted)
    shape = None
    if model is not None:
        try:
            shape = get_model(model)
        except ProfileError:
            note(f"{model} is no model that is known here, so it is taken as a name only")
    return ReadOptions(
        shape=shape,
        model=model,
        experts=experts,
        top_k=top_k,
        layers=layers,
        phase=phase,
        placement=None if placement is None else _read_map(placement),
        tokens_per_step=tokens,
    )


def _read_map(path: Path) -> Any:
    import numpy as np

    from ultraep_sim.trace.formats.arrays import int_array
    from ultraep_sim.trace.formats.json_file import json_counts
    from ultraep_sim.trace.formats.sample import Sample

    sample = Sample.of(path)
    names = ("physical_to_logical_map", "last_physical_to_logical_map", "")
    array = next((sample.arrays[name] for name in names if name in sample.arrays), None)
    if array is not None:
        return np.atleast_2d(int_array(array, 1 if array.ndim == 1 else 2, "[layers, physical]"))
    value = sample.members.get("physical_to_logical_map", sample.tree)
    flat = isinstance(value, list) and value and not isinstance(value[0], list)
    return np.atleast_2d(json_counts(value, 1 if flat else 2, path, "physical_to_logical_map"))


def judged(dump: Dump, repairs: Sequence[str] | None) -> Judged:
    """Diagnose and repair, telling on stderr what was found and done."""
    from ultraep_sim.trace.convert import judge_and_repair

    found = judge_and_repair(dump, repairs or ())
    for name, finding in zip(repairs or (), found.mended, strict=False):
        note(f"repaired with {name}: {finding.name}, {finding.seen}")
    return found


def check_out(out: Path, *sources: Path) -> None:
    """Refuse an output that is one of the inputs or lies in no folder.

    Raises
    ------
    InputError
        If it is, before anything is read.
    """
    if not out.parent.is_dir():
        raise InputError(
            f"there is no folder {out.parent}",
            place="OUT",
            value=str(out),
            remedy="make it first, or write elsewhere",
        )
    if any(out.exists() and source.exists() and out.samefile(source) for source in sources):
        raise InputError(
            "would replace what is read", place="OUT", value=str(out), remedy="name another file"
        )
