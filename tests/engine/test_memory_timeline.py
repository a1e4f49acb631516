from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.geometry import Geometry, divide, even
from ultraep_sim.engine.in_flight import in_flight
from ultraep_sim.engine.memory import activation_peak, memory_use
from ultraep_sim.engine.memory_timeline import MemoryTimeline
from ultraep_sim.engine.options import LayerOptions
from ultraep_sim.engine.stage_memory import bytes_per_pair, bytes_per_token
from ultraep_sim.model import AttentionShape, ModelShape, get_model, get_rack
from ultraep_sim.planning import EPLayout

from .jobs import make_job

TOY = ModelShape(
    "toy", layers=8, hidden=10, expert_ffn=4, num_experts=6, top_k=2,
    attention=AttentionShape(heads=2, kv_heads=1, head_dim=5), vocabulary=11,
)  # fmt: skip
PAPER = get_rack("paper-rack64")
BUFFER, CHECKPOINT = 10 * 2 * 2, 10 * 2
LOGITS = 30 * 11 * 4  # of 30 tokens
BUSY = {"fwd_compute": 1.0, "bwd_compute": 2.0}


def timeline(pairs, options, *, shape=TOY, stages=2, chunks=1, layout=None, **job):
    """Run a job with even kernel times; `pairs` is [D, M, L, R]."""
    replicas, micro_batches, _, ranks = np.shape(pairs)
    moe, dense = divide(shape, even(shape.layers, stages * chunks))
    place = Geometry(replicas, stages, chunks, ranks, micro_batches, moe, dense)
    times = run_fast(
        make_job(
            stages=stages, chunks=chunks, micro_batches=micro_batches, replicas=replicas,
            ranks=ranks, layers=moe, busy=BUSY, recompute=options.recompute, **job,
        )
    )  # fmt: skip
    layout = layout or EPLayout(ranks, shape.num_experts, 1)
    return MemoryTimeline(shape, layout, options, place, times, lambda d: np.asarray(pairs[d]))


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_even_loads_on_1f1b_peak_where_the_formula_says(recompute: str, stages: int) -> None:
    options = LayerOptions(30, recompute=recompute)  # type: ignore[arg-type]
    pairs = np.full((1, 6, 8, 3), 20)
    memory = timeline(pairs, options, stages=stages)
    group, rank = memory.fullest()
    flat = pairs.reshape(-1, 3)
    want = memory_use(TOY, PAPER, memory.layout, flat, options, pipeline_stages=stages)
    first = memory.group(0, 0)
    found = (first.activations + first.buffers).max(axis=0)
    logits = 2 * LOGITS if stages == 1 else 0
    assert found.tolist() == [activation_peak(TOY, options, flat) + logits] * 3
    assert group.peak[rank] == pytest.approx(want.total)


SCHEDULES = [
    (schedule, overlap, stages, chunks, micro_batches)
    for schedule, overlap, stages, chunks, micro_batches in product(
        ["1f1b", "interleaved"], ["none", "shared_expert", "two_batch", "dualpipe"],
        [1, 2, 4], [1, 2, 4], [1, 2, 4, 16],
    )
    if not (schedule == "1f1b" and chunks > 1)
    and not (schedule == "interleaved" and (chunks == 1 or overlap == "dualpipe"))
    and not (overlap == "two_batch" and micro_batches % 2)
    and not (
        schedule == "interleaved"
        and (micro_batches // (2 if overlap == "two_batch" else 1)) % stages
    )
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "overlap", "stages", "chunks", "micro_batches"), SCHEDULES)
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("vocabulary", [0, 500])
def test_even_loads_peak_where_the_formula_says_on_every_schedule(
    schedule, overlap, stages, chunks, micro_batches, recompute, vocabulary
) -> None:  # type: ignore[no-untyped-def]
    """The layers do not divide evenly over stages and chunks: 19, one of them dense."""
    shape = replace(TOY, layers=19, dense_layers=1, dense_ffn=70, vocabulary=vocabulary)
    options = LayerOptions(30, recompute=recompute)
    pairs = np.full((1, micro_batches, 18, 2), 20)
    memory = timeline(
        pairs, options, shape=shape, stages=stages, chunks=chunks,
        schedule=schedule, overlap=overlap, hop_s=0.25,
    )  # fmt: skip
    group, rank = memory.fullest()
    got = memory_use(
        shape, PAPER, memory.layout, pairs.reshape(-1, 2), options,
        pipeline_stages=stages, stage_layers=memory.stages,
        in_flight=in_flight(schedule, overlap, stages, chunks, micro_batches),
    )  # fmt: skip
    assert got.total == pytest.approx(group.peak[rank], rel=1e-9)
    assert got.activation_peak_ratio == 1


def test_logits_live_on_the_last_stage_with_their_gradient() -> None:
    """One forward, one backward: fp32 logits of the tokens in both, their gradient in one."""
    shape = replace(TOY, vocabulary=0)
    pairs = np.full((1, 4, 8, 1), 20)
    for stage, more in ((0, [0]), (1, [LOGITS, 2 * LOGITS])):
        with_head = timeline(pairs, LayerOptions(30)).group(0, stage)
        without = timeline(pairs, LayerOptions(30), shape=shape).group(0, stage)
        runs = without.buffers[:, 0] > 0
        found = (with_head.buffers - without.buffers)[runs, 0]
        assert sorted(set(found.tolist())) == more


def test_a_stage_keeps_as_many_micro_batches_as_stages_follow_it() -> None:
    options = LayerOptions(30)
    memory = timeline(np.full((1, 6, 8, 3), 20), options, stages=4)
    one = 2 * (30 * bytes_per_token(TOY) + 20 * bytes_per_pair(TOY, options))
    for stage in range(4):
        levels = memory.group(0, stage).activations[:, 0]
        assert levels.max() == (4 - stage) * one
        assert levels[-1] == (one if stage == 0 else 0)  # the first stage is the last to end
        assert (levels >= 0).all()


def test_two_micro_batches_by_hand() -> None:
    """One stage of one rank: F0 B0 F1 B1, a second a layer forward, two backward."""
    options = LayerOptions(30)
    pairs = np.full((1, 2, 8, 1), 20)
    pairs[0, 1, 3] = 50
    memory = timeline(pairs, options, stages=1).group(0, 0)
    assert memory.times_s.tolist() == [0, 8, 24, 32, 48]
    kept = 8 * (30 * bytes_per_token(TOY) + 20 * bytes_per_pair(TOY, options))
    more = kept + 30 * bytes_per_pair(TOY, options)
    assert memory.activations[:, 0].tolist() == [kept, kept, more, more]
    assert memory.buffers[:, 0].tolist() == [
        pairs * BUFFER + copies * LOGITS for pairs, copies in ((20, 1), (20, 2), (50, 1), (50, 2))
    ]
    assert memory.peak_at_s.tolist() == [32]  # with the gradient of the logits
    assert (
        memory.to_dict(0)["peak"]
        == memory.peak[0]
        == memory.fixed[0] + more + 50 * BUFFER + 2 * LOGITS
    )


def test_full_recompute_keeps_inputs_and_one_layer_while_a_unit_runs() -> None:
    options = LayerOptions(30, recompute="full")
    memory = timeline(np.full((1, 2, 8, 1), 20), options, stages=2, hop_s=1.0).group(0, 1)
    assert memory.times_s[0] == 0
    assert memory.activations[0, 0] == memory.buffers[0, 0] == 0  # waits for its first input
    assert memory.activations.max() == 4 * 30 * CHECKPOINT
    one_layer = 30 * bytes_per_token(TOY) + 20 * (bytes_per_pair(TOY, options) + BUFFER)
    assert set(memory.buffers[:, 0].tolist()) == {
        0, one_layer + LOGITS, one_layer + 2 * LOGITS
    }  # fmt: skip


def test_the_hot_rank_of_the_right_replica_is_the_fullest() -> None:
    pairs = np.full((2, 4, 8, 3), 20)
    pairs[1, 2, 6, 1] = 400  # layer 6 is on stage 1
    memory = timeline(pairs, LayerOptions(30), stages=2)
    plain = memory.group(0, 1).peak
    hot = memory.group(1, 1).peak
    more = 380 * (bytes_per_pair(TOY, LayerOptions(30)) + BUFFER)
    assert (hot - plain).tolist() == [0, more, 0]
    group, rank = memory.fullest()
    assert (group.replica, group.stage, rank) == (1, 1, 1)


def test_interleaved_chunks_add_up() -> None:
    options = LayerOptions(30)
    memory = timeline(np.full((1, 4, 8, 2), 20), options, stages=2, chunks=2)
    plain = timeline(np.full((1, 4, 8, 2), 20), options, stages=2)
    assert memory.group(0, 0).peak[0] > plain.group(0, 0).peak[0]  # the price of interleaving
    last = memory.group(0, 1)
    assert last.activations[-1, 0] == 0
    assert sum(stage.moe for stage in memory.stages) == 8


def test_ranks_with_more_main_experts_hold_more() -> None:
    layout = EPLayout(4, 6, 1)  # 2, 2, 1, 1 experts
    memory = timeline(np.full((1, 2, 8, 4), 5), LayerOptions(30), layout=layout).group(0, 0)
    weights = memory.parts["expert weights"]
    assert weights.tolist() == [4 * n * 3 * 10 * 4 * 2 for n in (2, 2, 1, 1)]
    assert np.unique(memory.parts["slot weights"]).tolist() == [3 * 10 * 4 * 2]


def test_dualpipe_keeps_what_its_order_says_and_runs_two_at_once() -> None:
    options = LayerOptions(30)
    plain = timeline(np.full((1, 6, 8, 1), 20), options).group(0, 0)
    dual = timeline(np.full((1, 6, 8, 1), 20), options, overlap="dualpipe").group(0, 0)
    held = in_flight("1f1b", "dualpipe", 2, 1, 6)[0].most
    assert held > 2
    assert dual.activations.max() == plain.activations.max() / 2 * held
    assert dual.buffers.max() == 2 * plain.buffers.max()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    stages=st.sampled_from([1, 2, 4]),
    micro_batches=st.integers(1, 6),
    recompute=st.sampled_from(["none", "full"]),
)
def test_the_formula_with_the_hottest_record_everywhere_is_a_bound(
    seed, stages, micro_batches, recompute
) -> None:  # type: ignore[no-untyped-def]
    options = LayerOptions(30, recompute=recompute)
    pairs = np.random.default_rng(seed).integers(0, 200, (2, micro_batches, 8, 3))
    memory = timeline(pairs, options, stages=stages)
    bound = activation_peak(TOY, options, pairs.reshape(-1, 3))
    for replica in range(2):
        for stage in range(stages):
            group = memory.group(replica, stage)
            logits = 2 * LOGITS if stage == stages - 1 else 0
            assert (group.activations + group.buffers).max() <= bound + logits
            assert (np.diff(group.times_s) > 0).all()
            assert group.times_s[-1] == memory.times.iteration_s
            assert (group.activations >= 0).all()
            np.testing.assert_array_equal(group.total.max(axis=0), group.peak)


def test_less_load_never_needs_more() -> None:
    pairs = np.random.default_rng(0).integers(0, 200, (1, 4, 8, 3))
    options = LayerOptions(30)
    more = timeline(pairs, options).group(0, 0).total
    less = timeline(pairs - pairs // 3, options).group(0, 0).total
    assert (less <= more).all()


def test_dense_layers_and_tables_lie_where_they_run() -> None:
    shape = replace(TOY, dense_layers=1, dense_ffn=7)
    options = LayerOptions(30)
    memory = timeline(np.full((1, 4, 7, 2), 20), options, shape=shape)
    whole = sum(memory.group(0, s).parts["other weights"][0] for s in range(2))
    assert whole == 2 * shape.other_params
    first = memory.group(0, 0).activations.max()
    layer, pair = 30 * bytes_per_token(shape), 20 * bytes_per_pair(shape, options)
    assert first == 2 * (4 * layer + 3 * pair + 30 * 3 * 7 * 2)


def test_a_model_of_the_paper_has_its_series() -> None:
    shape = get_model("qwen3-235b")
    options = LayerOptions(8192, recompute="full")
    memory = timeline(np.full((1, 2, 94, 4), 65_536), options, shape=shape)
    peak = memory.fullest()[0].to_dict(0)
    assert len(peak["times_s"]) == len(peak["activations"]) + 1 == len(peak["buffers"]) + 1
    assert peak["peak"] > sum(peak["parts"].values()) > 0
