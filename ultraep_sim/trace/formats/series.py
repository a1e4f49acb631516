"""Several files as one dump: chunks in time order, files of ranks as source rows.

A folder is read whole. A ``manifest.json`` in it says which chunks there must be:
``{"chunks": [{"file": NAME, "records": N}, ...]}``, or ``"files"``, or plain names; they lie in the
folder itself. Files that name their rank, and TensorRT-LLM's and Megatron's that do not, become
source rows; all others are chunks, ordered by the first step they number, or by name in natural
order (``10`` after ``9``) where they number none; then steps count on from chunk to chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import TraceError
from . import megatron, tensorrt_llm
from .dump import Dump, Observed, RawRecord, ReadOptions
from .json_file import read_json
from .limits import MAX_FILES, refuse
from .registry import recognise
from .sample import Sample

MANIFEST = "manifest.json"
_ONE_A_RANK = (tensorrt_llm.NAME, megatron.NAME)


def open_dump(
    paths: Path | Sequence[Path],
    options: ReadOptions | None = None,
    format_name: str | None = None,
) -> Dump:
    """Open a dump: a file, a folder, or several of either.

    Parameters
    ----------
    paths : Path or sequence of Path
    options : ReadOptions, optional
        What the dump may not say.
    format_name : str, optional
        Default: recognised by content.

    Returns
    -------
    Dump
        Its files are opened when it is iterated.

    Raises
    ------
    TraceError
        If a file is missing, damaged, or of another format than the others.
    """
    options = options or ReadOptions()
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    samples: list[Sample] = []
    notes: dict[str, Any] = {}
    for path in given:
        if path.is_dir():
            found, said = _folder(path)
            samples += found
            notes.update(said)
        else:
            samples.append(Sample.of(path))
    parts, names = [], set()
    for sample in samples:
        if tensorrt_llm.is_companion(sample):
            continue
        found_format = recognise(sample, format_name)
        names.add(found_format.name)
        if len(names) > 1:
            refuse(
                f"is of another format than the files before it: {', '.join(sorted(names))}",
                sample.path,
                "format",
                found_format.name,
                "convert them one by one",
            )
        parts.append(found_format.read(sample, options))
    if not parts:
        refuse("holds no dump", given[0], "folder", remedy="give a folder of dumps")
    joined = join(parts)
    return joined.changed(iter, notes={**joined.meta.notes, **notes}) if notes else joined


def _folder(path: Path) -> tuple[list[Sample], dict[str, Any]]:
    """Files of a folder, or those its manifest names; and what to note of them."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        files = sorted((p for p in path.iterdir() if p.is_file()), key=natural)
        files = [p for p in files if not p.name.startswith(".")]
        if len(files) > MAX_FILES:
            refuse("holds too many files", path, "folder", len(files))
        return [Sample.of(p) for p in files], {}
    document = read_json(manifest)
    listed = document if isinstance(document, dict) else {}
    entries = listed.get("chunks", listed.get("files"))
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_FILES:
        refuse("has no list of chunks", manifest, "document", entries)
    names = [entry.get("file") if isinstance(entry, dict) else entry for entry in entries]
    missing, samples = [], []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            refuse("names no file of its own folder", manifest, "chunks", name)
        if (path / name).is_file():
            samples.append(Sample.of(path / name))
        else:
            missing.append(name)
    if not samples:
        refuse("none of its chunks is there", manifest, "chunks", missing)
    claims = [e.get("records") if isinstance(e, dict) else None for e in entries]
    notes: dict[str, Any] = {"missing_chunks": missing} if missing else {}
    if not missing and all(isinstance(n, int) and not isinstance(n, bool) for n in claims):
        notes["manifest_records"] = sum(claims)
    return samples, notes


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that puts ``chunk-10`` after ``chunk-9``."""
    words = re.split(r"(\d{1,18})", path.name)
    return [(0, int(w), "") if w.isdigit() and w.isascii() else (1, 0, w) for w in words if w]


def join(parts: list[Dump], *, ranks: bool | None = None) -> Dump:
    """Join dumps of one recording.

    Parameters
    ----------
    parts : list of Dump
    ranks : bool, optional
        Whether they are source ranks of the same records (else chunks in time). Default: where
        they name different ranks, or are of a format that is one file a rank.

    Returns
    -------
    Dump

    Raises
    ------
    TraceError
        If they do not fit each other.
    """
    if len(parts) == 1 and ranks is None:
        return parts[0]
    _check_alike(parts)
    by_rank: dict[int, list[Dump]] = {}
    for at, part in enumerate(parts):
        number = part.meta.source_rank
        by_rank.setdefault(at if number is None else number, []).append(part)
    told = all(part.meta.source_rank is not None for part in parts)
    if ranks is None:
        ranks = (told and len(by_rank) > 1) or parts[0].meta.format in _ONE_A_RANK
    if not ranks:
        return _chain(parts)
    return _side_by_side([_chain(by_rank[rank]) for rank in sorted(by_rank)], sorted(by_rank))


def _check_alike(parts: list[Dump]) -> None:
    one = parts[0]
    for other in parts[1:]:
        for name in ("format", "num_experts", "num_layers", "top_k", "model", "notes"):
            mine, theirs = getattr(one.meta, name), getattr(other.meta, name)
            if name == "notes":
                mine, theirs = mine.get("layer_ids"), theirs.get("layer_ids")
            if mine != theirs:
                refuse(
                    f"does not fit {one.files[0].name}, its {name} differs from {mine}",
                    other.files[0],
                    name,
                    theirs,
                    "join dumps of one run only; give --layers or --model for the layers",
                )


def _chain(parts: list[Dump]) -> Dump:
    """Chunks one after the other in time."""
    if len(parts) == 1:
        return parts[0]
    if len({part.meta.source_ranks for part in parts}) > 1:
        refuse("chunks differ in source ranks", parts[-1].files[0], "source_ranks")
    numbered = all(part.first is not None and not part.meta.positions for part in parts)
    if numbered:
        parts = sorted(parts, key=lambda part: (part.first or (0, 0), natural(part.files[0])))
    else:
        parts = sorted(parts, key=lambda part: natural(part.files[0]))

    def records(observed: Observed) -> Iterator[RawRecord]:
        if numbered and parts[0].meta.may_sort:
            yield from _interleaved(parts, observed)
            return
        start = 0
        for part in parts:
            last = -1
            for record in part.records(observed):
                last = max(last, record.step)
                yield record if numbered else record._replace(step=record.step + start)
            start += last + 1

    files = tuple(file for part in parts for file in part.files)
    return Dump(parts[0].meta, files, records, parts[0].first)


def _interleaved(parts: list[Dump], observed: Observed) -> Iterator[RawRecord]:
    """Chunks of a pipeline may share micro-batches at their edges: sort across them.

    What is held is what the chunks still to come could lie before: a chunk or two.
    """
    held: list[RawRecord] = []
    for at, part in enumerate(parts):
        held = sorted([*held, *part.records(observed)], key=lambda record: record[:3])
        coming = min((p.first or (0, 0) for p in parts[at + 1 :]), default=None)
        done = len(held) if coming is None else sum(record[:2] < coming for record in held)
        yield from held[:done]
        held = held[done:]


def _side_by_side(ranks: list[Dump], numbers: list[int]) -> Dump:
    """Files of ranks as source rows; a row that a rank lacks is zero and is told of."""
    rows = [rank.meta.source_ranks for rank in ranks]
    starts = np.cumsum([0, *rows]).tolist()
    experts = ranks[0].meta.num_experts

    def records(observed: Observed) -> Iterator[RawRecord]:
        streams = [_ahead(rank.records(observed)) for rank in ranks]
        heads = [next(stream, None) for stream in streams]
        while any(head is not None for head in heads):
            key = min(head[:3] for head in heads if head is not None)
            loads = np.zeros((starts[-1], experts), dtype=np.int64)
            for at, head in enumerate(heads):
                if head is not None and head[:3] == key:
                    loads[starts[at] : starts[at + 1]] = head.loads
                    heads[at] = next(streams[at], None)
                else:
                    observed["source rows missing"] += rows[at]
            yield RawRecord(*key, loads)

    meta = replace(
        ranks[0].meta,
        source_ranks=starts[-1],
        source_rank=None,
        notes={**ranks[0].meta.notes, "ranks": numbers},
    )
    files = tuple(file for rank in ranks for file in rank.files)
    firsts = [rank.first for rank in ranks if rank.first is not None]
    return Dump(meta, files, records, min(firsts, default=None))


def _ahead(stream: Iterator[RawRecord]) -> Iterator[RawRecord]:
    """Refuse a rank whose records go back: rows could not be put beside one another."""
    last: tuple[Any, ...] = (-1, -1, -1)
    for record in stream:
        if record[:3] <= last:
            raise TraceError(
                "the records of a rank are out of order, so ranks cannot be put side by side",
                place=f"step {record.step}, micro-batch {record.micro_batch}, layer {record.layer}",
                value=f"after {last}",
                remedy="convert the file of each rank with --repair sort, then trace merge them",
            )
        last = record[:3]
        yield record
