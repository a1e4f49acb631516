"""The contract of a balancing policy: what it may see, when it acts, what it costs.

A policy is bound to a layout and planned layer by layer. It sees the exact loads of the
micro-batch it plans (``exact``), or only the history in its state: loads of global batches that
are over. The engine fills that history, so a policy cannot look into the future by accident;
a history policy that lets the loads it is handed decide *where* replicas go fails the
conformance tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import PolicyError
from ..model.provenance import Quantity
from ..planning import EPLayout, Plan
from ..planning.replicas import Replicas

Transport = Literal["none", "stream", "broadcast", "migrate", "free"]


@dataclass(frozen=True)
class DecisionPrice:
    """What one decision costs in time.

    Attributes
    ----------
    exchange : Quantity
        Count all-gather before an exact decision.
    solve : Quantity
        The decision itself.
    tasks : Quantity
        Building the transfer task lists and launching the transfer.
    reroute : Quantity
        Mapping tokens to instances.
    transport : {"none", "stream", "broadcast", "migrate", "free"}
        ``stream``: the weights of every replica travel every micro-batch, tile by tile, exposed.
        ``broadcast``: the same as a collective, one expert to all ranks of its home's domain;
        gradients return as the matching reduce.
        ``migrate``: weights move by bulk send/receive, only when the placement changes.
        ``free``: weights appear where they are needed. ``none``: there are no replicas.
    relay : bool
        Whether streaming may use the two-stage relay.
    hidden : bool
        Whether the decision overlaps other work and costs nothing on the critical path.
    prefetched : bool
        Whether replica weights were sent ahead, behind the layer below (in the backward: above);
        only what sticks out beyond that layer's work is exposed.
    """

    exchange: Quantity
    solve: Quantity
    tasks: Quantity
    reroute: Quantity
    transport: Transport
    relay: bool = False
    hidden: bool = False
    prefetched: bool = False

    @property
    def lasting(self) -> bool:
        """Whether replicas outlive a micro-batch, with buffers of their own in every layer."""
        return self.transport in ("migrate", "free")


@dataclass(frozen=True)
class CostModel:
    """What a cost-aware policy may weigh, in seconds; the engine makes it.

    Attributes
    ----------
    pair_s : float
        Expert compute of one pair on a rank, forward and (in training) backward.
    wire_s : float
        All-to-all of one pair that crosses ranks, dispatch and combine, all directions counted.
    copy_s : float
        One replica's weights on the port that sends or receives most, every time they travel.
    copy_base_s : float
        What the first byte of a distribution waits for. The decision itself is paid whatever it
        decides, so it is no part of this.
    relay_s : float
        What the two-stage relay adds to a distribution.
    gradient_s : float
        One replica's gradient on its way back, on the home that reduces it (``stream``) or on any
        port (``broadcast``). Zero in prefill.
    gradient_window_s : float
        Attention backward, which hides gradient reduction. Zero in prefill.
    """

    pair_s: float
    wire_s: float
    copy_s: float
    copy_base_s: float
    relay_s: float
    gradient_s: float = 0.0
    gradient_window_s: float = 0.0

    def exposed_gradient(self, copies: float) -> float:
        """Seconds of gradient reduction of ``copies`` on the busiest rank that nothing hides."""
        return max(0.0, copies * self.gradient_s - self.gradient_window_s)


def nothing(source: str) -> Quantity:
    """Zero seconds, with the reason why."""
    return Quantity(0.0, "us", "assumed", source, 0.0, 0.0)


# Prices shared by policies. The published hot path of one forward layer is planning 56 us and
# building the transfer tasks 38 us; the all-gather figure is NCCL's.
EXCHANGE = Quantity(11.0, "us", "published", "NCCL all-gather of the counts, DESIGN section 6")
TASKS = Quantity(38.0, "us", "published", "UltraEP hot path, building the transfer tasks")
REROUTE = Quantity(20.0, "us", "assumed", "8192 x top-8 ids through a prefix kernel", 10.0, 60.0)


@dataclass
class History:
    """Expert loads of global batches that are over, newest last; filled by the engine."""

    keep: int
    _steps: deque[int] = field(default_factory=deque)
    _loads: deque[NDArray[np.int64]] = field(default_factory=deque)

    def add(self, step: int, loads: NDArray[np.int64]) -> None:
        """Add the expert loads of one micro-batch of ``step``; one step's are summed."""
        if self._steps and self._steps[-1] == step:
            self._loads[-1] += loads
            return
        self._steps.append(step)
        self._loads.append(loads.copy())
        while len(self._steps) > self.keep:
            self._steps.popleft()
            self._loads.popleft()

    def clear(self) -> None:
        """Forget everything: the trace has a gap."""
        self._steps.clear()
        self._loads.clear()

    def __len__(self) -> int:
        return len(self._steps)

    def window(self, step: int, length: int) -> list[NDArray[np.int64]]:
        """Return the loads, int64 [experts] each, of global batches in [step - length, step)."""
        pairs = zip(self._steps, self._loads, strict=True)
        return [loads for at, loads in pairs if step - length <= at < step]


@dataclass
class PolicyState:
    """What a policy knows about one layer besides the loads at hand.

    Attributes
    ----------
    layer : int
    step, micro_batch : int
        Position of the micro-batch being planned.
    history : History
        Global batches that are over. The running one is not in it.
    since : int
        First step after the start of the trace or its last gap.
    warm : bool
        Whether the policy has had the history it asks for since then.
    placement : object
        The policy's own; kept from micro-batch to micro-batch, dropped at a gap.
    moved : ndarray of int64, shape [ranks], optional
        Set by a policy that just changed its placement: expert weights each rank received.
    previous : ndarray of int64, shape [experts], optional
        Expert loads of this layer in the micro-batch before; None at the start or after a gap.
    layer_before : ndarray of int64, shape [experts], optional
        Expert loads of the layer below in this micro-batch; None for the first layer.
    """

    layer: int = 0
    step: int = 0
    micro_batch: int = 0
    history: History = field(default_factory=lambda: History(0))
    since: int = 0
    warm: bool = True
    placement: Any = None
    moved: NDArray[np.int64] | None = None
    previous: NDArray[np.int64] | None = None
    layer_before: NDArray[np.int64] | None = None


class Policy(ABC):
    """One balancing policy bound to one layout.

    Parameters
    ----------
    layout : EPLayout

    Notes
    -----
    Options are the keyword-only parameters of ``__init__``; one called ``cost`` is not the user's
    but receives the engine's `CostModel`. A policy has no state of its own besides its workspace:
    everything it remembers is in the `PolicyState` of the layer. A policy that needs more slots
    than the layout has binds itself to one that has them (``self.layout``), and is charged for
    their memory.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    sees: ClassVar[str]
    acts: ClassVar[str]
    costs: ClassVar[str]
    exact: ClassVar[bool] = True
    never_worse: bool = False  # an option may change it
    moves_mains: ClassVar[bool] = False
    may_cross: bool = False  # an option may change it
    sees_layer_below: bool = False  # an option may change it
    sees_totals_only: ClassVar[bool] = False  # the plan depends on what each source holds alone

    def __init__(self, layout: EPLayout) -> None:
        self.layout = layout

    @property
    def cadence_steps(self) -> int | None:
        """Global batches between two placements; None for a policy without history."""
        return None

    @property
    def window_steps(self) -> int:
        """Global batches of history it asks for."""
        return 0

    def new_state(self, layer: int = 0) -> PolicyState:
        """Return the state of a layer before its first micro-batch."""
        keep = self.window_steps + 1  # and the running global batch
        return PolicyState(layer, history=History(keep), warm=self.cadence_steps is None)

    @abstractmethod
    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Plan one layer and micro-batch.

        Parameters
        ----------
        loads : ndarray of int64, shape [sources, experts]
            Checked loads, see `ultraep_sim.planning.check_loads`.
        state : PolicyState
            The layer's state; the policy may change ``placement``, ``moved`` and ``warm``.
        """

    def plan_block(self, totals: NDArray[np.int64]) -> Replicas | None:
        """Plan many records of any layers at once; None where there is no such way.

        Only for a policy that decides on the expert loads of each record alone, keeps mains home,
        replicas in their domain and a source's own tokens local. Each record's replicas must be
        those of `plan`.

        Parameters
        ----------
        totals : ndarray of int64, shape [N, experts]
        """
        return None

    @classmethod
    def plans_blocks(cls) -> bool:
        """Whether `plan_block` speaks for `plan`: a subclass that changes one needs its own."""
        return _definer(cls, "plan_block") is _definer(cls, "plan")

    @classmethod
    def plans_totals(cls) -> bool:
        """Whether `sees_totals_only` speaks for `plan`, in the same way."""
        return cls.sees_totals_only and _definer(cls, "sees_totals_only") is _definer(cls, "plan")

    @property
    def memoryless(self) -> bool:
        """Whether a plan depends on the loads at hand alone, so that records come in any order."""
        return self.exact and self.cadence_steps is None

    @abstractmethod
    def price(self) -> DecisionPrice:
        """Return what a decision costs."""


def _definer(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


def positive(name: str, value: int) -> int:
    """Check an option that counts something.

    Raises
    ------
    PolicyError
        If it is not a whole number above zero.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PolicyError("not a positive whole number", place=name, value=value)
    return value


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check an option that names a choice.

    Raises
    ------
    PolicyError
        If it is none of them.
    """
    if value not in allowed:
        raise PolicyError(
            "unknown choice", place=name, value=value, remedy="one of " + ", ".join(allowed)
        )
