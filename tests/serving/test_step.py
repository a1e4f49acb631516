"""The time of a step: equal to the engine's layer times, monotone, uneven where prompts are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.engine.jobs import make_job
from tests.serving.helpers import tiny
from ultraep_sim.compute.outside import outside_time
from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.layer import FORWARD_PHASES, layer_times
from ultraep_sim.errors import ProfileError
from ultraep_sim.serving.metrics import summarise
from ultraep_sim.serving.segments import Segments
from ultraep_sim.serving.setup import Setup, make_setup
from ultraep_sim.serving.step import PARTS, StepModel, stands_for

RANKS, BUDGET = 8, 2048


def model(setup: Setup, label: str, requests: int = 4096) -> StepModel:
    replay = next(r for r in setup.replays() if r.label == label)
    domain = np.arange(requests) % len(setup.routing.domains)
    return StepModel(setup.scenario, setup.routing, domain, replay, setup.options)


def even(count: int = BUDGET, start: int = 0, first: int = 0) -> Segments:
    """One chunk on every rank; the last of its request."""
    return Segments.of([(r, first + r, start, count, True) for r in range(RANKS)])


@pytest.fixture(scope="module")
def setup() -> Setup:
    scenario = tiny(policies=["none", "ideal", "ultraep"], serving={"sample_layers": 4})
    return make_setup(scenario)


@pytest.fixture(scope="module")
def shared() -> Setup:
    """A model with dense layers and shared experts, which hide behind the all-to-alls."""
    scenario = tiny(
        model={"preset": "glm-4.5-air-106b", "layers": 6},
        policies=["none", "ideal", "ultraep"],
        engine={"overlap": "shared_expert"},
        serving={"sample_layers": 3},
    )
    return make_setup(scenario)


@pytest.mark.parametrize("label", ["none", "ideal", "ultraep"])
@pytest.mark.parametrize("which", ["setup", "shared"])
def test_full_ranks_of_whole_prompts_take_what_the_engine_says(which, label, request) -> None:  # type: ignore[no-untyped-def]
    """Invariant 6: the same layers, by the engine's layer times and by its event engine."""
    one = request.getfixturevalue(which)
    scenario, steps = one.scenario, model(one, label)
    steps._plan(0, _routed(steps, even()))
    stats = steps.replay.builder.stats.packed()
    steps.replay.builder.reset()
    seconds = steps(0, even())

    options = replace(one.options, sequence_length=BUDGET)
    price = steps.replay.policy.price()
    found = layer_times(scenario.model, scenario.rack, stats, price, options)
    weights = stands_for(one.routing.layers, scenario.model.moe_layers)
    attention = _attention(scenario)
    ones = np.ones(RANKS, np.int64)
    outside = outside_time(scenario.model, scenario.rack.gpu, BUDGET * ones, ones, attention).max()
    overhead = scenario.serving.overhead_ms * 1e-3
    assert seconds == pytest.approx(weights @ found.forward_s + outside + overhead, rel=1e-12)

    # Each simulated layer as often as it stands for: the forward of one micro-batch, by events.
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    busy = {p: found.phases[p][None, None, rows] for p in FORWARD_PHASES if p in found.phases}
    busy = {p: times[0] for p, times in busy.items()}
    if one.options.overlap == "shared_expert":
        busy["fwd_shared"] = np.full((1, len(rows), RANKS), _shared(one))
    job = make_job(
        ranks=RANKS, layers=len(rows), busy=busy, hidden=price.hidden,
        prefetched=price.prefetched, overlap=one.options.overlap,
    )  # fmt: skip
    ran = run_event(job)
    forward = (ran.forward_end - ran.forward_start).item()
    assert forward == pytest.approx(seconds - outside - overhead, rel=1e-9)


def _routed(steps: StepModel, segments: Segments):  # type: ignore[no-untyped-def]
    from ultraep_sim.serving.routing import Segments as Routed

    domain = steps._domain[segments.request]
    return Routed(segments.rank, segments.request, segments.count, domain)


def _attention(scenario) -> np.ndarray:  # type: ignore[no-untyped-def]
    from ultraep_sim.compute.attention import attention_time

    one = attention_time(scenario.model, scenario.rack.gpu, BUDGET, BUDGET, "forward")
    return np.full(RANKS, one)


def _shared(one: Setup) -> float:
    from ultraep_sim.compute.dense import shared_expert_time

    shape, gpu = one.scenario.model, one.scenario.rack.gpu
    return shared_expert_time(shape, gpu, BUDGET, dtype=one.options.weight_dtype)


def test_the_parts_are_the_whole(setup) -> None:  # type: ignore[no-untyped-def]
    for label in ("none", "ultraep"):
        steps = model(setup, label)
        seconds = steps(0, even())
        step = steps.log[0]
        assert step.seconds == seconds
        assert sum(getattr(step, f"{part}_s") for part in PARTS) == pytest.approx(seconds)
        assert (step.balancing_s > 0) == (label == "ultraep")
        assert (step.tokens, step.chunks) == (RANKS * BUDGET, RANKS)


def test_balancing_shows_in_the_log(setup) -> None:  # type: ignore[no-untyped-def]
    log = {}
    for label in ("none", "ideal", "ultraep"):
        steps = model(setup, label)
        steps(0, even())
        log[label] = steps.log[0]
    assert log["ideal"].imbalance == pytest.approx(1.0, abs=0.001)
    assert log["ideal"].imbalance <= log["ultraep"].imbalance < log["none"].imbalance
    assert log["none"].replicas == 0 < log["ultraep"].replicas
    assert log["ideal"].experts_s < log["none"].experts_s
    # Requests, and so tokens and attention, are the same under all.
    assert len({step.attention_s for step in log.values()}) == 1


def test_more_tokens_take_longer(setup) -> None:  # type: ignore[no-untyped-def]
    steps = model(setup, "ideal")
    seconds = [steps(i, even(count)) for i, count in enumerate([64, 256, 512, 1024, 2048])]
    assert (np.diff(seconds) > 0).all()
    later = [steps(5 + i, even(start=start)) for i, start in enumerate([0, 4096, 65536])]
    assert (np.diff(later) > 0).all()


def test_a_rank_deep_in_a_long_prompt_is_a_straggler(setup) -> None:  # type: ignore[no-untyped-def]
    """All ranks have equal tokens: what differs is how far into their prompts they are."""
    steps = model(setup, "ideal")
    even_s = steps(0, even())
    rows = [(r, r, 65536 if r == 3 else 0, BUDGET, False) for r in range(RANKS)]
    uneven_s = steps(1, Segments.of(rows))
    flat, steep = steps.log
    assert flat.attention_imbalance == pytest.approx(1.0)
    assert steep.attention_imbalance > 2.0
    added = steep.attention_s - flat.attention_s
    assert uneven_s - even_s == pytest.approx(added, rel=0.02)  # the head: none finishes
    assert steep.experts_s == pytest.approx(flat.experts_s, rel=0.01)


def test_sampled_layers_stand_for_all() -> None:
    for layers, moe in (([0], 5), ([2, 7], 10), ([0, 3, 6, 9], 11), (list(range(7)), 7)):
        weights = stands_for(np.asarray(layers), moe)
        assert weights.sum() == moe
        assert (weights >= 1).all()
    assert stands_for(np.asarray([1, 4]), 6).tolist() == [3, 3]


def test_a_sample_of_layers_takes_what_all_take() -> None:
    """Over several steps, which all layers together average in one."""
    found = {}
    for sample in (8, None):
        one = make_setup(tiny(policies=["none"], serving={"sample_layers": sample}))
        steps = model(one, "none")
        found[sample] = np.mean([steps(i, even(first=8 * i)) for i in range(12)])
        assert len(one.routing.layers) == (8 if sample else one.scenario.model.moe_layers)
    assert found[8] == pytest.approx(found[None], rel=0.04)


def test_history_moves_weights_at_its_cadence_and_pays() -> None:
    spec = {"name": "eplb", "cadence_steps": 5}
    free = {"name": "eplb", "label": "free", "cadence_steps": 5, "migration": "free"}
    setup = make_setup(tiny(policies=[spec, free]))
    logs = {}
    for label in ("eplb", "free"):
        steps = model(setup, label)
        assert steps.history_steps == 6
        steps.prewarm(setup._history(steps.history_steps))
        assert steps.log == []
        for i in range(20):
            steps(i, even(first=8 * i))
        logs[label] = steps.log
    moved = [step.moved > 0 for step in logs["eplb"]]
    at = np.flatnonzero(moved)
    assert len(at) >= 3
    assert (np.diff(at) == 5).all()
    for step, free_step, moves in zip(logs["eplb"], logs["free"], moved, strict=True):
        assert (step.balancing_s > 0) == moves
        assert free_step.balancing_s == 0
        assert step.seconds - free_step.seconds == pytest.approx(step.balancing_s, abs=1e-12)


@pytest.mark.parametrize("label", ["none", "eplb", "ultraep"])
def test_policies_see_only_the_past(label) -> None:  # type: ignore[no-untyped-def]
    """Other tokens from the seventh step on: the six before are the same to the last bit."""
    setup = make_setup(tiny(policies=["none", {"name": "eplb", "cadence_steps": 3}, "ultraep"]))
    logs = []
    for later in (256, 2048):
        steps = model(setup, label)
        steps.prewarm(setup._history(steps.history_steps))
        for i in range(10):
            steps(i, even(512 if i < 6 else later, first=8 * i))
        logs.append(steps.log)
    assert logs[0][:6] == logs[1][:6]
    assert logs[0][6] != logs[1][6]


def test_the_cache_has_what_memory_leaves(setup) -> None:  # type: ignore[no-untyped-def]
    """More tokens a step, more activations, less cache; fp8 holds nearly twice as much."""
    replay = setup.replays()[0]
    room = setup.kv_tokens(replay)
    assert room == int(room) > BUDGET
    # Half a GPU of 80 GB at most is weights here; 48 layers x 2 x 4 heads x 128 x 2 bytes.
    assert 0.4 * 80e9 < room * 48 * 2 * 4 * 128 * 2 < 80e9
    larger = make_setup(tiny(serving={"token_budget": 16384}))
    assert larger.kv_tokens(larger.replays()[0]) < room
    small = make_setup(tiny(serving={"kv_dtype": "fp8"}))
    assert 1.8 < small.kv_tokens(small.replays()[0]) / room <= 2.01


def test_a_model_that_leaves_no_room_is_refused_by_name() -> None:
    setup = make_setup(tiny(model="qwen3-235b", serving={"token_budget": 65536}))
    replay = setup.replays()[0]
    with pytest.raises(ProfileError, match=r"none: needs .* no room for .* KV cache"):
        setup.serve(replay, setup.requests)


def test_a_row_counts_what_the_steps_say(setup) -> None:  # type: ignore[no-untyped-def]
    replay = next(r for r in setup.replays() if r.label == "ideal")
    service, steps = setup.serve(replay, setup.requests)
    row = summarise("ideal", setup.scenario, setup.requests, service, steps.log)
    left = setup.requests.tokens - setup.requests.cached
    assert sum(step.tokens for step in steps.log) == service.computed.sum() == left.sum()
    assert sum(row[f"share_{part}"] for part in PARTS) == pytest.approx(1.0)
    assert 0 < row["busy"] <= 1
