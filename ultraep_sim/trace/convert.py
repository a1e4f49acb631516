"""From a dump to a trace: judge, repair what was asked for, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .container import Record, Trace
from .diagnose import STOPS, TELLS, Finding, judge, repair, survey
from .diagnose.survey import Survey
from .formats.dump import Dump
from .meta import TraceMeta
from .selection import Selection


@dataclass(frozen=True)
class Judged:
    """A dump after repairs, and what is still found in it."""

    dump: Dump
    seen: Survey
    findings: list[Finding]
    mended: list[Finding]


def judge_and_repair(dump: Dump, repairs: Sequence[str] = ()) -> Judged:
    """Diagnose a dump and apply repairs in the order given.

    Parameters
    ----------
    dump : Dump
    repairs : sequence of str
        Names of `ultraep_sim.trace.diagnose.REPAIRS`.

    Returns
    -------
    Judged

    Raises
    ------
    TraceError
        If the dump is damaged or a repair is not called for.
    """
    seen = survey(dump)
    findings = judge(seen)
    mended: list[Finding] = []
    for name in repairs:
        mended += [f for f in findings if name in f.repairs][:1]
        dump = repair(dump, name, findings)
        seen = survey(dump)
        findings = judge(seen)
    return Judged(dump, seen, findings, mended)


def as_trace(judged: Judged) -> Trace:
    """Return a judged dump as a `Trace` that streams it.

    Parameters
    ----------
    judged : Judged

    Returns
    -------
    Trace
        Whose ``notes`` tell format, files, repairs and what was found.

    Raises
    ------
    TraceError
        If something was found that no trace can hold, or top-k is not known.
    """
    dump, meta = judged.dump, judged.dump.meta
    stops = [finding for finding in judged.findings if finding.level == STOPS]
    if stops:
        more = f" (and {len(stops) - 1} more: trace check lists them)" if len(stops) > 1 else ""
        first = stops[0]
        advice = "".join(f", or give --repair {name}" for name in first.repairs)
        raise TraceError(
            f"{first.seen}{more}",
            file=dump.files[0],
            place=first.name,
            remedy=first.remedy + advice,
        )
    if meta.top_k is None:
        raise TraceError(
            "the dump does not say top-k",
            file=dump.files[0],
            place="top_k",
            remedy="give --top-k or --model",
        )
    notes = {key: value for key, value in meta.notes.items() if value not in (None, {}, [])}
    if meta.format != "parquet":
        notes["imported"] = {
            "format": meta.format,
            "files": [file.name for file in dump.files[:64]],
            "num_files": len(dump.files),
        }
    found = [f"{f.name}: {f.seen}" for f in judged.findings if f.level != TELLS]
    notes = {**notes, "found": found} if found else notes
    # The nominal tokens of a row: those most rows have; of equally many, the larger.
    pairs = max(judged.seen.tokens.items(), key=lambda item: (item[1], item[0]))[0]
    about = TraceMeta(
        model=meta.model,
        num_experts=meta.num_experts,
        top_k=meta.top_k,
        num_layers=meta.num_layers,
        source_ranks=meta.source_ranks,
        tokens_per_rank=max(1, pairs // meta.top_k),
        phase=meta.phase,
        recorded=meta.recorded,
        synthetic=meta.synthetic,
        sampling=meta.sampling,
        notes=notes,
    )
    source = DumpSource(dump, about, judged.seen.keys.astype(np.int32))
    return Trace(source, about)


@dataclass(frozen=True, eq=False)
class DumpSource:
    """The records of a dump, streamed again by every iteration."""

    dump: Dump
    meta: TraceMeta
    _keys: NDArray[np.int32]

    def records(self, selection: Selection) -> Iterator[Record]:
        """Yield the selected records; the dump is read whole."""
        keep = selection.mask(self._keys)
        for at, (step, micro_batch, layer, loads) in enumerate(self.dump.records()):
            if keep[at]:
                if int(loads.max(initial=0)) >= 2**31:
                    raise TraceError(
                        "a count reaches 2^31",
                        file=self.dump.files[0],
                        place=f"step {step}, layer {layer}",
                        value=int(loads.max()),
                        remedy="use shorter windows",
                    )
                yield Record(step, micro_batch, layer, loads.astype(np.int32))

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record."""
        return self._keys.copy()

    def count(self) -> int:
        """Return the number of records."""
        return len(self._keys)

    def digest(self) -> str:
        """Return the sha256 over the files, in their order."""
        import hashlib

        found = hashlib.sha256()
        for file in self.dump.files:
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        return found.hexdigest()
