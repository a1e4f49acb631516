"""The formats that can be read and written, and which of them a file is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import TraceError
from . import (
    counts_arrays,
    deepseek_eplb,
    hf_router_logits,
    mcore_npz,
    megatron,
    own_parquet,
    routed_experts,
    sglang_json,
    sglang_pt,
    tensorrt_llm,
    ultraep_npz,
    vllm_eplb,
)
from .dump import Dump, ReadOptions
from .limits import refusal
from .sample import Sample


@dataclass(frozen=True)
class Format:
    """One foreign format.

    Attributes
    ----------
    name, title : str
        As typed, and one line about it.
    recognise : callable
        Whether a `Sample` is of it, by content.
    read : callable
        `Sample` and `ReadOptions` to `Dump`.
    write : callable or None
        `Trace` and path to the files written.
    """

    name: str
    title: str
    recognise: Callable[[Sample], bool]
    read: Callable[[Sample, ReadOptions], Dump]
    write: Callable[[Any, Path], list[Path]] | None = None


def _whole(module: Any, *, writes: bool = False) -> Format:
    write = module.write if writes else None
    return Format(module.NAME, module.TITLE, module.recognise, module.read, write)


# More particular formats first: the first that recognises a file has it.
FORMATS: tuple[Format, ...] = (
    _whole(own_parquet),
    _whole(ultraep_npz, writes=True),
    _whole(mcore_npz),
    Format(
        sglang_pt.STAT,
        sglang_pt.TITLES[sglang_pt.STAT],
        sglang_pt.recognise_stat,
        sglang_pt.read_stat,
    ),
    Format(
        sglang_pt.PASS,
        sglang_pt.TITLES[sglang_pt.PASS],
        sglang_pt.recognise_pass,
        sglang_pt.read_pass,
    ),
    Format(
        sglang_pt.TOKEN,
        sglang_pt.TITLES[sglang_pt.TOKEN],
        sglang_pt.recognise_token,
        sglang_pt.read_token,
    ),
    _whole(sglang_json, writes=True),
    _whole(tensorrt_llm),
    Format(
        vllm_eplb.WINDOWS,
        vllm_eplb.TITLES[vllm_eplb.WINDOWS],
        vllm_eplb.recognise_windows,
        vllm_eplb.read_windows,
    ),
    Format(
        vllm_eplb.HISTORY,
        vllm_eplb.TITLES[vllm_eplb.HISTORY],
        vllm_eplb.recognise_history,
        vllm_eplb.read_history,
    ),
    _whole(megatron),
    _whole(routed_experts),
    _whole(hf_router_logits),
    _whole(counts_arrays),
    _whole(deepseek_eplb),
)
WRITABLE = tuple(f.name for f in FORMATS if f.write is not None)


def get_format(name: str) -> Format:
    """Return the format of a name.

    Raises
    ------
    TraceError
        If there is none.
    """
    for found in FORMATS:
        if found.name == name:
            return found
    raise TraceError(
        "no such format",
        place="--format",
        value=name,
        remedy=f"use one of {', '.join(f.name for f in FORMATS)}",
    )


def recognise(sample: Sample, name: str | None = None) -> Format:
    """Return the format of a file.

    Parameters
    ----------
    sample : Sample
    name : str, optional
        The format it must be.

    Raises
    ------
    TraceError
        If it is of none, or not of the one that was asked for.
    """
    formats = FORMATS if name is None else (get_format(name),)
    for found in formats:
        if found.recognise(sample):
            return found
    held = sorted(sample.arrays)[:8] or sorted(map(str, sample.members))[:8]
    wanted = "no format that is read" if name is None else f"not the format {name}"
    raise refusal(
        f"is {wanted}",
        sample.path,
        f"{sample.kind} with {', '.join(held) or 'nothing'}"[:200],
        remedy="the formats and their members are listed in docs/traces.md",
    )
