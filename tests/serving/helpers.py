"""Small servers with an injected clock, and a scenario that is served in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultraep_sim.scenario import Scenario, scenario_from_dict
from ultraep_sim.serving.segments import Segments
from ultraep_sim.serving.server import Server, ServerRules, Service

#: A rack of eight GPUs, a small model, two domains; a run of it takes about half a second.
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": "qwen3-30b",
    "rack": "h100-nvl8",
    "ep": {"ranks": 8, "slots_per_rank": 2},
    "workload": {
        "requests": {
            "arrivals": {"rate_per_s": 40.0},
            "duration_s": 3.0,
            "lengths": {"mean": 2000.0, "longest": 8192},
            "domains": {"mix": {"a": 1.0, "b": 2.0}},
            "routing": {"imbalance": 1.6},
        }
    },
    "serving": {"warmup_s": 0.5, "sample_layers": 2, "token_budget": 2048},
    "policies": ["none", "ultraep"],
}


def tiny(**sections: Any) -> Scenario:
    """TINY with changes; ``requests``, ``serving`` and ``ep`` are merged, the rest is replaced."""
    raw = {**TINY}
    raw["workload"] = {"requests": {**TINY["workload"]["requests"], **sections.pop("requests", {})}}
    for name in ("serving", "ep"):
        raw[name] = {**TINY[name], **sections.pop(name, {})}
    return scenario_from_dict({**raw, **sections})


@dataclass
class Ran:
    """A finished run: what became of the requests, and every step with its end."""

    server: Server
    service: Service | None = None
    steps: list[Segments] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def rows(self) -> list[list[tuple[int, int, int]]]:
        """Every step as (rank, request, count)."""
        return [
            list(zip(s.rank.tolist(), s.request.tolist(), s.count.tolist(), strict=True))
            for s in self.steps
        ]


def serve(
    arrival_s: Any,
    tokens: Any,
    *,
    cached: Any = 0,
    patience_s: Any = np.inf,
    seconds: float | Callable[[int, Segments], float] = 1.0,
    watch: Callable[[Server], bool] | None = None,
    **rules: Any,
) -> Ran:
    """Serve requests on one rank with a budget of one token, unless told otherwise."""
    arrival_s = np.asarray(arrival_s, np.float64)
    count = len(arrival_s)

    def clock(step: int, segments: Segments) -> float:
        ran.steps.append(segments)
        return seconds(step, segments) if callable(seconds) else seconds

    def look(server: Server) -> bool:
        ran.ended.append(float(server.env.now))
        return watch is not None and watch(server)

    server = Server(
        ServerRules(**{"ranks": 1, "token_budget": 1, **rules}),
        arrival_s,
        np.broadcast_to(np.asarray(tokens, np.int64), count).copy(),
        np.broadcast_to(np.asarray(cached, np.int64), count).copy(),
        np.broadcast_to(np.asarray(patience_s, np.float64), count).copy(),
        clock,
        look,
    )
    ran = Ran(server)
    ran.service = server.run()
    return ran
