"""All that a synthetic trace depends on, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import TraceError


@dataclass(frozen=True)
class SynthOptions:
    """All that a synthetic trace depends on; see `synthesize` for the meaning."""

    num_experts: int
    top_k: int
    num_layers: int
    steps: int
    source_ranks: int
    tokens_per_rank: int
    imbalance: float
    at_ranks: int
    phase: str
    seed: int
    micro_batches: int
    drift: float
    drift_memory: float
    noise: float = 0.0
    source_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "steps", "source_ranks", "tokens_per_rank", "micro_batches"):
            _check_int(name, getattr(self, name), 1, 2**31 - 1)
        _check_int("num_experts", self.num_experts, 2, 65_536)
        _check_int("top_k", self.top_k, 1, self.num_experts)
        _check_int("at_ranks", self.at_ranks, 2, 8192)
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_real("imbalance", self.imbalance, 1.0, math.inf)
        _check_real("drift", self.drift, 0.0, 3.0)
        _check_real("drift_memory", self.drift_memory, 0.0, 0.999999)
        _check_real("noise", self.noise, 0.0, 3.0)
        _check_real("source_noise", self.source_noise, 0.0, 3.0)
        pairs = self.source_ranks * self.tokens_per_rank * self.top_k
        if pairs >= 2**31:
            raise _refused("tokens_per_rank", "makes records of 2^31 pairs or more", pairs)

    def described(self) -> dict[str, Any]:
        """Return the options for metadata and digest.

        Noise of zero is left out: it draws nothing, so it must not change what a trace is called.
        """
        values = asdict(self)
        for name in ("noise", "source_noise"):
            if not values[name]:
                del values[name]
        return values


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _refused(name, f"must be an integer in {low}..{high}", value)


def _check_real(name: str, value: object, low: float, high: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (good and math.isfinite(float(value)) and low <= float(value) <= high):  # type: ignore[arg-type]  # `good` says it is a number
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise _refused(name, f"must be a number of at least {low:g}{upper}", value)


def _refused(name: str, problem: str, value: object) -> TraceError:
    return TraceError(f"{name} {problem}", place="synthesize", value=value, remedy=f"change {name}")
