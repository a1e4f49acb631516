"""What all runs of a serving scenario share: requests, routing, simulated layers, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..engine.options import LayerOptions
from ..engine.replay import PolicyReplay
from ..engine.replayed import layer_options, policy_replays
from ..errors import ScenarioError
from .kv import kv_bytes, kv_bytes_per_token, kv_capacity
from .requests import Requests, make_requests
from .routing import Routing, Typical, spread_layers
from .routing import Segments as RoutedSegments
from .server import Server, ServerRules, Service
from .step import StepModel, typical_batches

if TYPE_CHECKING:
    from ..scenario import Scenario

Watch = Callable[[Server], bool]

_TYPICAL_REQUESTS = 4096


@dataclass(frozen=True, eq=False)
class Setup:
    """A serving scenario, ready to run under any of its policies at any rate.

    Attributes
    ----------
    scenario : Scenario
    requests : Requests
        At the scenario's own rate.
    routing : Routing
    options : LayerOptions
    typical : Typical
    """

    scenario: Scenario
    requests: Requests
    routing: Routing
    options: LayerOptions
    typical: Typical

    def replays(self) -> list[PolicyReplay]:
        """Return the policies, each with a state of its own that is fresh."""
        return policy_replays(self.scenario, self.options, references=False)

    def serve(
        self, replay: PolicyReplay, requests: Requests, watch: Watch | None = None
    ) -> tuple[Service, StepModel]:
        """Serve requests under one policy.

        Parameters
        ----------
        replay : PolicyReplay
            Fresh: it gathers history as it goes.
        requests : Requests
        watch : callable, optional
            As in `ultraep_sim.serving.server.Server`.
        """
        spec = self.scenario.serving
        assert spec is not None  # noqa: S101  (make_setup has seen it)
        steps = StepModel(self.scenario, self.routing, requests.domain, replay, self.options)
        steps.prewarm(self._history(steps.history_steps))
        shape = self.scenario.model
        rules = ServerRules(
            self.scenario.ep.ranks,
            spec.token_budget,
            spec.router,
            np.inf if spec.timeout_s is None else spec.timeout_s,
            np.inf if spec.max_queue is None else spec.max_queue,
            self.kv_tokens(replay),
            self.scenario.seed,
        )
        server = Server(
            rules, requests.arrival_s, requests.tokens, requests.cached, requests.patience_s,
            steps, watch,
            kv_bytes(shape, requests.tokens, spec.kv_dtype)
            / kv_bytes_per_token(shape, spec.kv_dtype),
        )  # fmt: skip
        return server.run(), steps

    def kv_tokens(self, replay: PolicyReplay) -> float:
        """Prompt tokens whose keys and values a rank has room for under a policy, a whole number.

        Activations are taken to be those of a full step without balancing, whatever the policy:
        one that balances badly for a step must not run out of memory.

        Raises
        ------
        ProfileError
            There is no room for those of one step.
        """
        scenario = self.scenario
        spec, work = scenario.serving, scenario.workload.requests
        assert spec is not None  # noqa: S101  (make_setup has seen it)
        assert work is not None  # noqa: S101
        hottest = work.routing.imbalance * spec.token_budget * scenario.model.top_k
        room = kv_capacity(scenario, replay.policy, self.options, hottest)
        return float(room // kv_bytes_per_token(scenario.model, spec.kv_dtype))

    def _history(self, count: int) -> list[RoutedSegments]:
        typical = self.typical
        chunk = max(1, round(typical.tokens_per_segment))
        per_rank = max(1, round(typical.tokens_per_rank / chunk))
        return typical_batches(
            count, self.scenario.ep.ranks, chunk, per_rank, typical.shares, self.scenario.seed
        )


def make_setup(scenario: Scenario) -> Setup:
    """Draw requests and routing of a serving scenario.

    Raises
    ------
    ScenarioError
        It has none.
    InputError
        Requests or routing cannot be made.
    """
    spec, work = scenario.serving, scenario.workload.requests
    if spec is None or work is None:
        raise ScenarioError(
            "nothing is served here",
            file=scenario.source_path,
            place="serving",
            remedy="add workload.requests and serving, as in scenarios/qwen3-235b-serving.yaml",
        )
    requests = make_requests(scenario)
    typical = _typical(scenario, work.duration_s, spec.token_budget)
    moe = scenario.model.moe_layers
    layers = (
        np.arange(moe) if spec.sample_layers is None else spread_layers(moe, spec.sample_layers)
    )
    routing = Routing(
        work.routing, scenario.model, scenario.ep.ranks, layers.tolist(), requests.domains,
        typical, scenario.seed, draw=spec.draw,
    )  # fmt: skip
    options = layer_options(scenario, spec.token_budget, "prefill")
    return Setup(scenario, requests, routing, options, typical)


def _typical(scenario: Scenario, duration_s: float, budget: int) -> Typical:
    """Full ranks, of chunks as these prompts give, about what the mix begins with.

    Of so many requests whatever the rate: the routing is fitted to this batch, and a search that
    begins at another rate must not find another routing.
    """
    requests = make_requests(scenario, rate_per_s=_TYPICAL_REQUESTS / duration_s)
    left = requests.tokens - requests.cached
    chunks = -(-left // budget)
    shares: NDArray[np.float64] = np.ones(len(requests.domains))
    if requests.shares is not None:
        shares = requests.shares.mixes[0]
    return Typical(budget, float(left.sum() / chunks.sum()), shares)
