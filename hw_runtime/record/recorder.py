"""Record the routing of a running torch model as a trace."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from hw_runtime.record.errors import RecordError
from hw_runtime.record.routers import Router, find_routers
from hw_runtime.record.sources import Sources, token_mask

_INPUT_NAMES = ("input_ids", "inputs_embeds", "tokens", "hidden_states")


class Sink(Protocol):
    """Where records go: anything with the writer's ``append``."""

    def append(self, step: int, micro_batch: int, layer: int, loads: np.ndarray) -> None:
        """Take the int32 [source_ranks, num_experts] load matrix of one layer."""


class RouterRecorder:
    """Hook every router of a model and count (token, expert) pairs per source rank.

    Each call of the model is one micro-batch; `end_step` ends the step. Counting happens on
    the model's device without waiting for it, and goes to the host once every
    ``flush_every`` micro-batches. What a backward pass recomputes (gradient checkpointing)
    is not counted again; a forward that raises is not recorded.

    Parameters
    ----------
    model : torch.nn.Module
        The module that is *called*; routers are looked for inside it (see `find_routers`).
    out : str, Path or Sink
        A Parquet file to write, or an object with ``append``.
    sources : Sources
        Which source rank a token belongs to; by default all to row 0 of one.
    phase : {"training", "prefill"}
    name, recorded : str, optional
        Model name and how the trace was made, for its metadata.
    notes : dict, optional
        Free JSON for the metadata (seed, command, corpus, ...).
    steps : iterable of (int, int), optional
        Record only steps in these half-open windows; goes into the metadata as sampling.
    first_step : int
        Number of the first step, for runs that continue.
    flush_every : int
        Micro-batches kept on the device before one transfer.
    reduce : bool
        Sum the counts of all processes of ``torch.distributed``; only rank 0 writes.

    Raises
    ------
    RecordError
        No router found, a router's output is not understood, batch and sources disagree.

    Examples
    --------
    ::

        with RouterRecorder(model, "trace.parquet", sources=Sources.by_sequence(64)) as rec:
            for batch in batches:
                model(**batch).loss.backward()
                optimizer.step()
                rec.end_step()
    """

    def __init__(
        self,
        model: nn.Module,
        out: str | Path | Sink,
        *,
        sources: Sources | None = None,
        phase: str = "training",
        name: str | None = None,
        recorded: str | None = None,
        notes: Mapping[str, Any] | None = None,
        steps: Iterable[tuple[int, int]] | None = None,
        first_step: int = 0,
        flush_every: int = 16,
        reduce: bool = False,
    ) -> None:
        self.model, self.out = model, out
        self.sources = sources or Sources.one()
        self.phase, self.name, self.recorded = phase, name, recorded
        self.notes = dict(notes or {})
        self.windows = None if steps is None else [(int(a), int(b)) for a, b in steps]
        self.flush_every, self.reduce = max(1, flush_every), reduce
        self.routers: list[Router] = find_routers(model)
        self.num_experts, self.top_k = self.routers[0].num_experts, self.routers[0].top_k
        self.step, self.micro_batch = first_step, 0
        self.micro_batches_recorded = 0
        self._handles: list[Any] = []
        self._writer: Any = None
        self._tokens_per_rank = 1
        self._pending: list[tuple[int, int, list[int], torch.Tensor]] = []
        self._bins: torch.Tensor | None = None  # source row of every token of this forward
        self._counts: torch.Tensor | None = None
        self._seen: list[int] = []

    # -- life ---------------------------------------------------------------------------

    def __enter__(self) -> RouterRecorder:
        """Attach the hooks."""
        if isinstance(self.out, (str, Path)):
            # Now, not after an hour of training.
            require_pyarrow(Path(self.out))
            self._meta()
        model = self.model
        self._handles = [
            model.register_forward_pre_hook(self._forward_begins, with_kwargs=True),
            model.register_forward_hook(self._forward_ends, always_call=True),
        ]
        for layer, router in enumerate(self.routers):
            self._handles.append(router.module.register_forward_hook(self._hook(layer, router)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Detach; write what is left, or leave no file behind an error."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        try:
            if kind is None:
                self.flush()
        except BaseException as failure:
            kind, error, trace = type(failure), failure, failure.__traceback__
            raise
        finally:
            writer, self._writer = self._writer, None
            if writer is not None and writer is not self.out:
                writer.__exit__(kind, error, trace)
        if kind is None and not self.micro_batches_recorded:
            raise RecordError(
                "nothing was recorded: the model was not called inside the recorder",
                remedy="call the module that was given to RouterRecorder, in a recorded step",
            )

    def end_step(self) -> None:
        """End the step: the next forward is micro-batch 0 of the next one."""
        self.step, self.micro_batch = self.step + 1, 0

    def flush(self) -> None:
        """Move the counts kept on the device to the writer, in one transfer."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        counts = torch.stack([p[3] for p in pending])
        if self.reduce and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            if torch.distributed.get_rank() != 0:
                return
        host = counts.cpu().numpy()
        rows, E = self.sources.ranks, self.num_experts
        for (step, micro_batch, layers, _), block in zip(pending, host, strict=True):
            if block[:, rows * E + 1].any():
                raise RecordError(
                    f"a router chose an expert outside 0..{E - 1}",
                    place=f"step {step}, micro-batch {micro_batch}",
                    remedy="dropped or masked pairs cannot be attributed to an expert",
                )
            loads = block[:, : rows * E].reshape(-1, rows, E).astype(np.int32)
            for layer in layers:
                if loads[layer].any():  # a micro-batch of padding only has no load
                    self._sink().append(step, micro_batch, layer, loads[layer])

    # -- hooks --------------------------------------------------------------------------

    def _forward_begins(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if _in_backward() or not self._wanted():
            return
        shape, device, given = _batch(module, args, kwargs)
        bins = self.sources.of_tokens(shape, device)
        keep = token_mask(given.get("attention_mask"), shape)
        if keep is not None:
            bins = torch.where(keep.to(device), bins, torch.full_like(bins, -1))
        width = self.sources.ranks * self.num_experts + 2
        self._bins = bins
        self._counts = torch.zeros(len(self.routers), width, dtype=torch.int64, device=device)
        self._seen = []
        if not self.micro_batches_recorded:
            # With one rank per process the batch is that rank's; else it is the whole group's.
            share = 1 if self.sources.rank is not None else self.sources.ranks
            self._tokens_per_rank = max(1, bins.numel() // share)

    def _hook(self, layer: int, router: Router) -> Any:
        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._bins is None or self._counts is None or _in_backward():
                return
            ids = router.chosen(output)
            if ids.shape[0] != self._bins.numel():
                raise RecordError(
                    f"the router saw {ids.shape[0]} tokens of a batch of {self._bins.numel()}",
                    place=router.name,
                    remedy="tokens were dropped or added before it; their sources are unknown",
                )
            if layer in self._seen:
                raise RecordError(
                    "the router ran twice in one forward",
                    place=router.name,
                    remedy="layers that share a router cannot be told apart",
                )
            self._seen.append(layer)
            self._count(layer, ids)

        return after

    def _count(self, layer: int, ids: torch.Tensor) -> None:
        if self._bins is None or self._counts is None:
            return
        rows, E = self.sources.ranks, self.num_experts
        bins = self._bins.to(ids.device).unsqueeze(1)
        key = bins * E + ids
        key = torch.where((ids < 0) | (ids >= E), torch.full_like(key, rows * E + 1), key)
        key = torch.where(bins < 0, torch.full_like(key, rows * E), key).reshape(-1)
        counts = histogram(key, rows * E + 2, wait=key.device.type == "cpu")
        self._counts[layer] = counts.to(self._counts.device)

    def _forward_ends(self, _module: nn.Module, _args: Any, output: Any) -> None:
        counts, self._counts, self._bins = self._counts, None, None
        if _in_backward():
            return
        if counts is not None and output is not None:  # None: the forward raised
            if not self._seen:
                raise RecordError("no router ran in this forward", value=type(_module).__name__)
            self._pending.append((self.step, self.micro_batch, sorted(self._seen), counts))
            self.micro_batches_recorded += 1
            if len(self._pending) >= self.flush_every:
                self.flush()
        self.micro_batch += 1

    # -- writing ------------------------------------------------------------------------

    def _wanted(self) -> bool:
        return self.windows is None or any(a <= self.step < b for a, b in self.windows)

    def _sink(self) -> Any:
        if self._writer is None:
            if isinstance(self.out, (str, Path)):
                self._writer = self._open(Path(self.out))
            else:
                self._writer = self.out
        return self._writer

    def _open(self, path: Path) -> Any:
        from ultraep_sim.trace import TraceWriter

        return TraceWriter(path, self._meta()).__enter__()

    def _meta(self) -> Any:
        # Here, not above: hooks without a file must work where pyarrow is not installed.
        from ultraep_sim.trace import TraceMeta

        name = self.name or type(self.model).__name__
        sampling = {} if self.windows is None else {"steps": [list(w) for w in self.windows]}
        return TraceMeta(
            model=name,
            num_experts=self.num_experts,
            top_k=self.top_k,
            num_layers=len(self.routers),
            source_ranks=self.sources.ranks,
            tokens_per_rank=self._tokens_per_rank,
            phase=self.phase,
            recorded=self.recorded or f"router hooks on {type(self.model).__name__}",
            synthetic=False,
            sampling=sampling,
            notes={"layer_names": [r.name for r in self.routers], **self.notes},
        )


def histogram(key: torch.Tensor, size: int, *, wait: bool) -> torch.Tensor:
    """How often each of 0..size-1 occurs in ``key`` (int64 [n]), int64 [size].

    ``wait=False`` queues the work without the host waiting for it; bincount would wait, to
    learn the largest key.
    """
    if wait:
        return torch.bincount(key, minlength=size)
    counts = torch.zeros(size, dtype=torch.int64, device=key.device)
    return counts.scatter_add_(0, key, torch.ones_like(key))


def require_pyarrow(path: Path) -> None:
    """Raise `RecordError` where no trace can be written."""
    if importlib.util.find_spec("pyarrow") is None:
        raise RecordError(
            "writing a trace needs pyarrow",
            file=path,
            remedy="pip install pyarrow, or give RouterRecorder an object with append()",
        )


def _in_backward() -> bool:
    """Tell whether autograd is running a backward pass in this thread (a recompute)."""
    return bool(torch._C._current_graph_task_id() != -1)


def _batch(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[int, int], torch.device, dict[str, Any]]:
    """Shape [sequences, length] of the batch, its device, and the arguments by name."""
    try:
        given = dict(inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments)
    except TypeError:
        given = dict(kwargs)
    for nested in ("kwargs", "args"):  # wrappers take (*args, **kwargs)
        inner = given.pop(nested, None)
        if isinstance(inner, dict):
            given.update(inner)
    tensors = [given[n] for n in _INPUT_NAMES if isinstance(given.get(n), torch.Tensor)]
    tensors += [a for a in args if isinstance(a, torch.Tensor)]
    for tensor in tensors:
        if tensor.dim() >= 2:
            return (tensor.shape[0], tensor.shape[1]), tensor.device, given
    raise RecordError(
        "cannot tell the batch's shape from the model's arguments",
        value=sorted(kwargs),
        remedy=f"call it with a tensor [sequences, length, ...] ({', '.join(_INPUT_NAMES)})",
    )
