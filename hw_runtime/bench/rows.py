"""The rows of a measurement document, and the document.

A field says what it may be in its type and in ``metadata``: ``least`` is the smallest number,
``choices`` are the words allowed. `schema` checks both when it reads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "hw_runtime.bench/2"
METHODS = ("cuda_events", "cuda_graph", "host_clock")
PATHS = ("hbm", "nvlink")
FABRICS = ("host", "virtual", "ipc", "symm")


def _one_of(*values: str) -> Any:
    return field(metadata={"choices": values})


def _least(value: float) -> Any:
    return field(metadata={"least": value})


@dataclass(frozen=True)
class Clocks:
    """MHz, now and at most; null where the machine does not say."""

    sm_MHz: float | None = _least(0)  # noqa: N815 - the unit
    memory_MHz: float | None = _least(0)  # noqa: N815
    sm_max_MHz: float | None = _least(0)  # noqa: N815
    memory_max_MHz: float | None = _least(0)  # noqa: N815


@dataclass(frozen=True)
class Machine:
    """What was measured on.

    Attributes
    ----------
    device : str
        Its name.
    kind : "gpu" or "cpu"
    architecture : str
        sm_90 and so on; the instruction set of a CPU.
    count : int
        Devices that took part.
    sms : int
        Multiprocessors of one; threads of a CPU.
    memory_bytes : int or None
    driver, toolkit : str or None
        Driver and CUDA version of torch; null without a GPU.
    torch, python : str
    clocks : Clocks
        At the end of the run, warm.
    """

    device: str
    kind: str = _one_of("gpu", "cpu")
    architecture: str = ""
    count: int = field(default=1, metadata={"least": 1})
    sms: int = field(default=1, metadata={"least": 1})
    memory_bytes: int | None = field(default=None, metadata={"least": 1})
    driver: str | None = None
    toolkit: str | None = None
    torch: str = ""
    python: str = ""
    clocks: Clocks = field(default_factory=lambda: Clocks(None, None, None, None))


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call.

    Attributes
    ----------
    median_us, low_us, high_us : float
        Median, 5th and 95th percentile.
    runs : int
    method : str
        CUDA events around each call, replays of a CUDA graph of calls, or the host's clock.
    """

    median_us: float = _least(0)
    low_us: float = _least(0)
    high_us: float = _least(0)
    runs: int = _least(1)
    method: str = _one_of(*METHODS)


@dataclass(frozen=True)
class PlannerRow:
    """One plan from loads that are where the planner runs."""

    time: Timing
    policy: str
    ranks: int = _least(1)
    experts: int = _least(1)
    slots: int = _least(1)
    imbalance_before: float = _least(1)
    imbalance_after: float = _least(1)
    replicas: int = _least(0)


@dataclass(frozen=True)
class HistogramRow:
    """Counts of one rank's top-k ids."""

    time: Timing
    experts: int = _least(1)
    tokens: int = _least(1)
    top_k: int = _least(1)


@dataclass(frozen=True)
class RerouteRow:
    """One rank's tokens to physical experts.

    ``part``: the split of the loads over instances ("split"), or the choice for each token
    ("tokens").
    """

    time: Timing
    part: str = _one_of("split", "tokens")
    ranks: int = _least(1)
    experts: int = _least(1)
    slots: int = _least(1)
    tokens: int = _least(1)
    top_k: int = _least(1)


@dataclass(frozen=True)
class CopyRow:
    """The ceiling of the transfers: the device's plain copy, bytes counted once."""

    time: Timing
    path: str = _one_of(*PATHS)
    bytes: int = _least(1)
    GBps: float = _least(0)


@dataclass(frozen=True)
class StreamRow:
    """Tile streaming of one expert.

    ``path`` says what was crossed: virtual ranks share a GPU and measure its memory, never a link.
    ``stored_bytes`` are all stores to replicas, ``loaded_bytes`` all loads; ``GBps`` counts
    stores. ``share_of_ceiling`` compares with the plain copy of the same run: on "nvlink" by
    stores alone, on "hbm" by loads and stores, which is what a copy's ceiling is made of.
    """

    time: Timing
    path: str = _one_of(*PATHS)
    expert_bytes: int = _least(1)
    fan_out: int = _least(1)
    transport: str = _one_of("direct", "relay")
    stored_bytes: int = _least(1)
    loaded_bytes: int = _least(1)
    GBps: float = _least(0)
    share_of_ceiling: float = _least(0)


@dataclass(frozen=True)
class ReductionRow:
    """Gradient reduction of one expert; ``sms`` null for all. ``GBps`` counts replica bytes."""

    time: Timing
    path: str = _one_of(*PATHS)
    gradient_bytes: int = _least(1)
    dtype: str = _one_of("fp32", "bf16")
    replicas: int = _least(1)
    sms: int | None = _least(1)
    moved_bytes: int = _least(1)
    GBps: float = _least(0)
    share_of_ceiling: float = _least(0)


@dataclass(frozen=True)
class GemmRow:
    """Gate, up and down of one rank's experts, forward.

    fp8 is e4m3 with one fp32 scale for every row of tokens and every column of a weight. Tokens
    come quantized, as a dispatch in fp8 brings them; quantizing what goes into down is timed.
    ``expert_pairs`` are the rows of each expert.
    """

    time: Timing
    expert_pairs: list[int] = field(metadata={"least": 0})
    dtype: str = _one_of("bf16", "fp16", "fp32", "fp8")
    experts: int = _least(1)
    hidden: int = _least(1)
    ffn: int = _least(1)
    tokens_per_expert: float = _least(0)
    distribution: str = _one_of("balanced", "skewed")
    TFLOPs: float = _least(0)


@dataclass(frozen=True)
class BlockRow:
    """The experts of an MoE block, each virtual rank alone, before and after balancing.

    ``time`` is of the busiest rank, which is what a group waits for; ``rank_us`` are the medians
    of all, and ``instance_pairs`` the pairs of each rank's mains and, where it has some, slots. A
    rank's mains are one call and its slots another.
    """

    time: Timing
    balanced: bool
    policy: str
    rank_us: list[float] = field(metadata={"least": 0})
    instance_pairs: list[list[int]] = field(metadata={"least": 0})
    ranks: int = _least(1)
    experts: int = _least(1)
    slots: int = _least(0)
    hidden: int = _least(1)
    ffn: int = _least(1)
    tokens: int = _least(1)
    top_k: int = _least(1)
    dtype: str = _one_of("bf16", "fp16", "fp32")
    imbalance: float = _least(1)

    @property
    def rank_pairs(self) -> list[int]:
        """Pairs that each rank computes."""
        return [sum(pairs) for pairs in self.instance_pairs]


Row = (
    PlannerRow | HistogramRow | RerouteRow | CopyRow | StreamRow | ReductionRow | GemmRow | BlockRow
)
KINDS: dict[str, type] = {
    "planner": PlannerRow,
    "histogram": HistogramRow,
    "reroute": RerouteRow,
    "copy": CopyRow,
    "stream": StreamRow,
    "reduction": ReductionRow,
    "gemm": GemmRow,
    "block": BlockRow,
}
KIND_OF = {cls: kind for kind, cls in KINDS.items()}


@dataclass(frozen=True)
class Measurements:
    """One run of ``bench``.

    Attributes
    ----------
    date : str
        UTC, ISO 8601.
    fabric : str
    seed : int
    machine : Machine
    rows : list
    """

    date: str
    fabric: str
    seed: int
    machine: Machine
    rows: list[Row]

    def of(self, kind: str) -> list[Any]:
        """Rows of one kind."""
        return [row for row in self.rows if isinstance(row, KINDS[kind])]

    def to_json(self) -> dict[str, Any]:
        """Return the document as plain numbers, lists and dicts."""
        document = dataclasses.asdict(self)
        rows = [
            {"kind": KIND_OF[type(row)], **plain}
            for row, plain in zip(self.rows, document.pop("rows"), strict=True)
        ]
        return {"schema": SCHEMA, **document, "rows": rows}
