"""A foreign dump as a stream of raw records: read, not yet judged.

A `Trace` refuses records that cannot be (uneven sums, records without tokens). A dump of a real
system may hold such records, and the point is to say which disease they show: so a `Dump` takes
whole counts of any kind, `ultraep_sim.trace.diagnose` looks at them, and only a healthy or repaired
dump becomes a trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from ...model.shapes import ModelShape
from ..meta import MAX_EXPERTS, MAX_LAYERS, MAX_SOURCE_RANKS
from .limits import refuse


class RawRecord(NamedTuple):
    """Counts of one layer and micro-batch, as dumped.

    Attributes
    ----------
    step, micro_batch, layer : int
    loads : ndarray of int64, shape [source_ranks, num_experts]
        (token, expert) pairs of logical experts.
    """

    step: int
    micro_batch: int
    layer: int
    loads: NDArray[np.int64]


Observed = Counter[str]
"""What a reader met that a count does not show: masked tokens, repeated experts, ..."""


@dataclass(frozen=True)
class DumpMeta:
    """What a dump says of itself; `TraceMeta` once it is a trace.

    Attributes
    ----------
    format : str
    num_experts : int
        Logical experts.
    num_layers : int
        MoE layers; records count them from 0.
    source_ranks : int
        Rows of a record.
    model : str
    top_k : int or None
        None where neither the dump nor the caller says it.
    phase : str
    recorded : str
    source_rank : int or None
        Which rank this dump is of, where it is one of several rank files.
    positions : bool
        Steps are positions in the file, because it does not number them.
    may_sort : bool
        The writer interleaves records (a pipeline does), so out of order is no sign of damage.
    synthetic : bool
    sampling, notes : dict
        As in `TraceMeta`.
    """

    format: str
    num_experts: int
    num_layers: int
    source_ranks: int = 1
    model: str = "unknown"
    top_k: int | None = None
    phase: str = "prefill"
    recorded: str = "by an unknown writer"
    source_rank: int | None = None
    positions: bool = False
    may_sort: bool = False
    synthetic: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, most in (
            ("num_experts", self.num_experts, MAX_EXPERTS),
            ("num_layers", self.num_layers, MAX_LAYERS),
            ("source_ranks", self.source_ranks, MAX_SOURCE_RANKS),
        ):
            if not 1 <= value <= most:
                raise TraceError(
                    f"{name} must lie in 1..{most}",
                    place=self.format,
                    value=value,
                    remedy="the dump is damaged, or its axes are not those of this format",
                )


@dataclass(frozen=True)
class Dump:
    """Metadata, files, and records that can be streamed again and again.

    Attributes
    ----------
    meta : DumpMeta
    files : tuple of Path
    first : tuple of int or None
        Smallest (step, micro-batch) where the dump numbers them and they are cheap to know.
    """

    meta: DumpMeta
    files: tuple[Path, ...]
    _records: Callable[[Observed], Iterator[RawRecord]]
    first: tuple[int, int] | None = None

    def records(self, observed: Observed | None = None) -> Iterator[RawRecord]:
        """Yield the records in the order of the dump, int64 loads of logical experts.

        Parameters
        ----------
        observed : Counter, optional
            Is told what else was met on the way.

        Raises
        ------
        TraceError
            If the file is damaged or a record has not the shape of the metadata.
        """
        shape = (self.meta.source_ranks, self.meta.num_experts)
        for record in self._records(Counter() if observed is None else observed):
            if record.loads.shape != shape or not 0 <= record.layer < self.meta.num_layers:
                refuse(
                    f"a record does not fit {list(shape)} counts of {self.meta.num_layers} layers",
                    self.files[0],
                    f"step {record.step}, layer {record.layer}",
                    record.loads.shape,
                )
            if not (0 <= record.step < 2**31 and 0 <= record.micro_batch < 2**31):
                refuse("is not numbered from 0", self.files[0], "step", record.step)
            yield record

    def changed(
        self,
        change: Callable[[Iterator[RawRecord]], Iterator[RawRecord]],
        **meta: Any,
    ) -> Dump:
        """Return a dump whose records pass through ``change``."""
        return Dump(
            replace(self.meta, **meta),
            self.files,
            lambda observed: change(self.records(observed)),
            self.first,
        )


@dataclass(frozen=True)
class ReadOptions:
    """What the caller knows and a dump may not say.

    Attributes
    ----------
    shape : ModelShape or None
        Of a known model: experts, top-k, MoE layers.
    model : str or None
        Any name.
    experts, top_k, layers : int or None
    phase : str or None
    placement : ndarray of int64 [layers, physical] or None
        Logical expert of every physical one; -1 for an empty slot.
    tokens_per_step : int or None
        Tokens that make a step of a per-token dump; default: one step a request.
    """

    shape: ModelShape | None = None
    model: str | None = None
    experts: int | None = None
    top_k: int | None = None
    layers: int | None = None
    phase: str | None = None
    placement: NDArray[np.int64] | None = None
    tokens_per_step: int | None = None

    def name(self, said: Any = None) -> str:
        """Return the model's name: the caller's, else what the dump says."""
        if self.model:
            return self.model
        return said if isinstance(said, str) and said.strip() else "unknown"

    def num_experts(self, path: Path, said: int | None) -> int:
        """Return the logical experts: as the dump says, which the caller must not contradict.

        Raises
        ------
        TraceError
            If they differ or nobody knows.
        """
        wanted = self.experts or (self.shape.num_experts if self.shape else None)
        if said is not None and wanted not in (None, said):
            refuse(
                f"holds {said} experts, not the {wanted} asked for",
                path,
                "experts",
                said,
                "counts of physical experts need their map (--map); else correct "
                "--experts or --model",
            )
        found = said if said is not None else wanted
        if found is None:
            refuse("does not say how many experts there are", path, "experts", remedy=_SAY_EXPERTS)
        return found

    def choose_k(self, path: Path, said: int | None) -> int | None:
        """Return top-k: as the dump says, which the caller must not contradict.

        Raises
        ------
        TraceError
            If they differ.
        """
        if said is not None and said < 1:
            refuse("says that a token takes no expert", path, "top_k", said)
        wanted = self.top_k or (self.shape.top_k if self.shape else None)
        if said is not None and wanted not in (None, said):
            refuse(f"is top-{said}, not top-{wanted}", path, "top_k", said, "correct --top-k")
        return said if said is not None else wanted

    def place_layers(self, ids: Iterable[int]) -> Layers:
        """Return the MoE layers numbered from 0; see `Layers`."""
        return Layers.of(list(ids), self)


_SAY_EXPERTS = "give --experts or --model"


@dataclass(frozen=True)
class Layers:
    """Layer numbers of a dump and the MoE layers (from 0) they are.

    Dumps number the layers of the model, dense ones among them, or count from 1. Where the model is
    known and has as many layers as the dump, its dense layers are left out. Where the model is
    known and the dump has fewer layers than it and numbers that fit, the numbers are kept and the
    others count as not sampled. Else the layers present are numbered in order.
    """

    position: dict[int, int]
    num_layers: int
    sampling: dict[str, Any]
    notes: dict[str, Any]

    @classmethod
    def of(cls, ids: list[int], options: ReadOptions) -> Layers:
        """Return the numbering of the layers with these ids."""
        ids, shape = sorted(set(ids)), options.shape
        known = options.layers or (shape.moe_layers if shape else None)
        notes: dict[str, Any] = {"layer_ids": ids}
        if shape is not None and len(ids) == shape.layers and shape.dense_layers:
            left_out, ids = ids[: shape.dense_layers], ids[shape.dense_layers :]
            notes["dense_layers_left_out"] = left_out
        elif known and len(ids) < known and ids and ids[-1] < known:
            sampling = {"layers": ids}
            return cls({at: at for at in ids}, known, sampling, {})
        if ids == list(range(len(ids))):
            notes.pop("layer_ids")
        return cls({at: n for n, at in enumerate(ids)}, max(len(ids), 1), {}, notes)
