from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.compute.attention import attention_time
from ultraep_sim.compute.dense import gate_time, shared_expert_time
from ultraep_sim.engine.layer import (
    BACKWARD_PHASES,
    FORWARD_PHASES,
    OVERHEAD_PHASES,
    LayerOptions,
    LayerTimes,
    layer_times,
)
from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.model import AttentionShape, ModelShape, get_rack

from .counts import make_price, make_stats

# An expert has 3 x 4096 x 1000 parameters: 24.576 MB in bf16, 49.152 MB of fp32 gradient.
SHAPE = ModelShape(
    "toy", layers=4, hidden=4096, expert_ffn=1000, num_experts=6, top_k=2, shared_experts=1,
    attention=AttentionShape(heads=8, kv_heads=8, head_dim=64),
)  # fmt: skip
COPY, GRADIENT, ROW = 24.576e6, 49.152e6, 4096 * 2
RACK = get_rack("paper-rack64").with_overrides(
    {
        "alltoall_forward_GBps": 100,
        "alltoall_backward_GBps": 50,
        "alltoall_floor_us": 10,
        "stream_GBps": 200,
        "stream_base_us": 8,
        "relay_us": 15,
        "migrate_GBps": 20,
        "migrate_base_us": 40,
        "grad_reduce_GBps": 10,
        "gpu": {
            "expert_forward_TFLOPs": 100,
            "expert_backward_TFLOPs": 50,
            "expert_launch_us": 5,
            "expert_pair_ns": 1,
            "hbm_achieved_TBps": 1,
        },
    }
)
OPTIONS = LayerOptions(tokens_per_rank=512, sequence_length=512)
# Rank 0 is hot; rank 1 is lent one replica of its expert.
HOT = make_stats(
    pairs=[1500, 1000, 572],
    tiles=[[[6, 6, 0], [3, 3, 3], [3, 2, 0]]],
    near_sent=[700, 800, 900],
    near_received=[1200, 800, 400],
    copies_sent=[2, 0, 0],
    copies_received=[0, 1, 1],
)
STREAM = make_price(exchange=11, solve=56, tasks=38, reroute=20, transport="stream")


def run(stats=HOT, price=STREAM, options=OPTIONS, shape=SHAPE, rack=RACK) -> LayerTimes:  # type: ignore[no-untyped-def]
    return layer_times(shape, rack, stats, price, options)


def attention(direction: str = "forward", shared: bool = True) -> float:
    parts = attention_time(SHAPE, RACK.gpu, 512, 512, direction)  # type: ignore[arg-type]
    parts += gate_time(SHAPE, RACK.gpu, 512, direction)  # type: ignore[arg-type]
    if shared:
        parts += shared_expert_time(SHAPE, RACK.gpu, 512, direction)  # type: ignore[arg-type]
    return parts


def test_forward_phases_of_three_ranks_by_hand() -> None:
    got = run().phases
    np.testing.assert_allclose(got["fwd_attention"], [[attention()] * 3])
    np.testing.assert_allclose(got["fwd_plan"], [[105e-6] * 3])
    np.testing.assert_allclose(
        got["fwd_distribute"],
        [[8e-6 + 2 * COPY / 200e9, 8e-6 + COPY / 200e9, 8e-6 + COPY / 200e9]],
    )
    np.testing.assert_allclose(got["fwd_reroute"], [[20e-6] * 3])
    moved = np.array([[1200, 800, 900]]) * ROW
    np.testing.assert_allclose(got["fwd_dispatch"], 10e-6 + moved / 100e9)
    np.testing.assert_allclose(got["fwd_combine"], 10e-6 + moved / 100e9)
    tile = 128 * 2 * 3 * 4096 * 1000 / 100e12
    want = [[5e-6 + n * tile + p * 1e-9 for n, p in ((12, 1500), (9, 1000), (5, 572))]]
    np.testing.assert_allclose(got["fwd_compute"], want)


def test_backward_phases_of_three_ranks_by_hand() -> None:
    got = run().phases
    np.testing.assert_array_equal(got["bwd_recompute"], [[0, 0, 0]])
    np.testing.assert_allclose(got["bwd_distribute"], got["fwd_distribute"])
    moved = np.array([[1200, 800, 900]]) * ROW
    np.testing.assert_allclose(got["bwd_combine"], 10e-6 + moved / 50e9)
    np.testing.assert_allclose(got["bwd_dispatch"], 10e-6 + moved / 50e9)
    tile = 128 * 2 * 3 * 4096 * 1000 / 50e12
    bytes_of_two = 2 * 8 * 3 * 4096 * 1000 / 1e12  # wgrad of rank 0 reads and writes fp32
    want = 2 * (5e-6 + 1500 * 1e-9) + 12 * tile + max(bytes_of_two, 12 * tile)
    assert got["bwd_compute"][0, 0] == pytest.approx(want)
    np.testing.assert_allclose(got["bwd_attention"], [[attention("backward")] * 3])
    reduce = [[2 * GRADIENT / 10e9, GRADIENT / 200e9, GRADIENT / 200e9]]
    np.testing.assert_allclose(got["bwd_grad_reduce"], reduce)


def test_critical_path_sums_maxima() -> None:
    times = run()
    c, busy = times.critical, times.phases
    for name in ("fwd_dispatch", "fwd_compute", "fwd_combine", "bwd_combine", "bwd_compute"):
        np.testing.assert_allclose(c[name], busy[name].max(axis=1))
    assert tuple(c) == tuple(busy) == FORWARD_PHASES + BACKWARD_PHASES
    np.testing.assert_allclose(times.forward_s, sum(c[p] for p in FORWARD_PHASES))
    np.testing.assert_allclose(times.backward_s, sum(c[p] for p in BACKWARD_PHASES))
    np.testing.assert_allclose(times.layer_s, sum(c.values()))
    np.testing.assert_allclose(times.exposed_overhead_s, sum(c[p] for p in OVERHEAD_PHASES))


def test_reroute_hides_behind_distribution_and_sticks_out_beyond_it() -> None:
    assert run().critical["fwd_reroute"] == 0
    slow = run(price=replace(STREAM, reroute=make_price(reroute=1000).reroute))
    distribute = 8e-6 + 2 * COPY / 200e9
    assert slow.critical["fwd_reroute"] == pytest.approx(1000e-6 - distribute)


def test_gradient_reduction_hides_behind_attention_backward() -> None:
    reduce = 2 * GRADIENT / 10e9
    assert run().critical["bwd_grad_reduce"] == pytest.approx(reduce - attention("backward"))
    quick = RACK.with_overrides({"grad_reduce_GBps": 200})
    long = replace(OPTIONS, tokens_per_rank=65_536)
    assert run(rack=quick, options=long).critical["bwd_grad_reduce"] == 0


def test_hidden_decision_is_off_the_critical_path_but_still_seen() -> None:
    hidden = run(price=replace(STREAM, hidden=True))
    assert hidden.critical["fwd_plan"] == 0
    assert hidden.phases["fwd_plan"][0, 0] == pytest.approx(105e-6)
    assert run().layer_s - hidden.layer_s == pytest.approx(105e-6)


def test_no_balancing_has_no_overhead() -> None:
    none = run(price=make_price())
    assert none.exposed_overhead_s == 0
    assert none.critical["fwd_distribute"] == none.critical["bwd_distribute"] == 0


def test_free_transport_moves_nothing() -> None:
    free = run(price=make_price(transport="free"))
    assert free.exposed_overhead_s == 0


def test_migration_is_paid_in_the_records_that_replan_only() -> None:
    stats = make_stats(
        pairs=[[10, 10], [10, 10]],
        tiles=[[1, 1], [1, 1]],
        copies_sent=[[1, 0], [1, 0]],
        copies_received=[[0, 1], [0, 1]],
        moved_copies=[[0, 0], [3, 0]],
    )
    got = run(stats=stats, price=make_price(transport="migrate"))
    np.testing.assert_allclose(got.critical["fwd_distribute"], [0, 40e-6 + 3 * COPY / 20e9])
    np.testing.assert_array_equal(got.critical["bwd_distribute"], [0, 0])
    np.testing.assert_array_equal(got.critical["bwd_grad_reduce"], [0, 0])


def test_relay_needs_the_policy_the_option_and_the_record() -> None:
    stats = make_stats(
        pairs=[[10, 10]] * 2,
        tiles=[[1, 1]] * 2,
        copies_sent=[[9, 0]] * 2,
        copies_received=[[0, 1]] * 2,
        relay_sent=[[3, 3]] * 2,
        relayed=[False, True],
    )
    relay = replace(STREAM, relay=True)
    direct = 8e-6 + 9 * COPY / 200e9
    tree = 8e-6 + 15e-6 + 3 * COPY / 200e9
    off = replace(OPTIONS, relay="off")
    for price, options, want in (
        (relay, OPTIONS, [direct, tree]),
        (STREAM, OPTIONS, [direct, direct]),
        (relay, off, [direct, direct]),
    ):
        got = run(stats=stats, price=price, options=options).critical
        np.testing.assert_allclose(got["fwd_distribute"], want)
        np.testing.assert_allclose(got["bwd_distribute"], want)
        assert (got["bwd_grad_reduce"] > 0).all()  # the way back has no relay


def test_full_recompute_runs_the_forward_again_without_deciding_again() -> None:
    again, once = run(options=replace(OPTIONS, recompute="full")), run()
    c = once.critical
    want = c["fwd_attention"] + c["fwd_dispatch"] + c["fwd_compute"] + c["fwd_combine"]
    np.testing.assert_allclose(again.critical["bwd_recompute"], want)
    np.testing.assert_allclose(again.backward_s - once.backward_s, want)
    np.testing.assert_allclose(again.exposed_overhead_s, once.exposed_overhead_s)
    assert (again.phases["bwd_recompute"] <= want).all()


def test_prefill_has_no_backward() -> None:
    got = run(options=replace(OPTIONS, phase="prefill"))
    assert got.backward_s == 0
    np.testing.assert_allclose(got.layer_s, run().forward_s)
    for name in BACKWARD_PHASES:
        assert (got.phases[name] == 0).all()
        assert (got.critical[name] == 0).all()


def test_restore_may_hide_behind_recomputed_attention() -> None:
    full = replace(OPTIONS, recompute="full", tokens_per_rank=65_536)
    exposed = run(options=full)
    hidden = run(options=replace(full, restore="overlapped"))
    restore = 8e-6 + 2 * COPY / 200e9
    np.testing.assert_allclose(exposed.critical["bwd_distribute"], restore)
    assert hidden.critical["bwd_distribute"] == 0


def test_restore_shares_attention_backward_with_gradient_reduction() -> None:
    hidden = run(options=replace(OPTIONS, restore="overlapped"))
    c, reduce = hidden.critical, 2 * GRADIENT / 10e9
    restore = 8e-6 + 2 * COPY / 200e9
    assert reduce > attention("backward")  # so nothing of the window is left for the restore
    assert c["bwd_distribute"] == pytest.approx(restore)
    both = c["bwd_attention"] + c["bwd_grad_reduce"] + c["bwd_distribute"]
    assert both == pytest.approx(max(attention("backward"), reduce + restore))


def test_shared_experts_may_hide_behind_the_all_to_alls() -> None:
    shared = replace(OPTIONS, overlap="shared_expert")
    got = run(options=shared).critical
    assert got["fwd_attention"] == pytest.approx(attention(shared=False))
    # Nothing to hide behind: the shared experts are back on the critical path.
    alone = make_stats(pairs=[600, 600], tiles=[[[3, 2], [3, 2]]])
    got = run(stats=alone, options=shared).critical
    assert got["fwd_attention"] == pytest.approx(attention())
    assert got["bwd_attention"] == pytest.approx(attention("backward"))


def test_far_traffic_is_slower() -> None:
    near = run()
    far = replace(HOT, far_sent=HOT.near_sent, far_received=HOT.near_received)
    assert run(stats=far).critical["fwd_dispatch"] > near.critical["fwd_dispatch"]


@pytest.mark.parametrize(
    ("change", "phases"),
    [
        ({"dispatch_dtype": "fp8"}, {"fwd_dispatch", "bwd_combine"}),
        ({"combine_dtype": "fp8"}, {"fwd_combine", "bwd_dispatch"}),
        (
            {"weight_dtype": "fp8"},
            {
                "fwd_compute", "bwd_compute", "fwd_distribute", "bwd_distribute",
                "fwd_attention", "bwd_attention", "bwd_grad_reduce",
            },
        ),
    ],
)  # fmt: skip
def test_each_dtype_speeds_up_its_own_phases(change: dict[str, str], phases: set[str]) -> None:
    """fp32 gradients do not shrink, but a shorter attention backward (shared expert) hides less."""
    before, after = run(), run(options=replace(OPTIONS, **change))  # type: ignore[arg-type]
    changed = {p for p in before.critical if before.critical[p] != after.critical[p]}
    assert changed == phases
    for name in phases - {"bwd_grad_reduce"}:
        assert after.critical[name] < before.critical[name]


def test_records_do_not_touch_each_other() -> None:
    cold = make_stats(
        pairs=[100, 90, 80], tiles=[[[0, 0, 1]] * 3],
        near_sent=[50, 50, 50], near_received=[40, 60, 50],
    )  # fmt: skip
    both = replace(
        HOT, **{k: np.concatenate([getattr(HOT, k), getattr(cold, k)]) for k in vars(HOT)}
    )
    got = run(stats=both)
    np.testing.assert_allclose(got.layer_s, [*run().layer_s, *run(stats=cold).layer_s])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"tokens_per_rank": 0}, "tokens_per_rank"),
        ({"sequence_length": 1.5}, "sequence_length"),
        ({"tile_rows": True}, "tile_rows"),
        ({"phase": "decode"}, "phase"),
        ({"recompute": "half"}, "recompute"),
        ({"relay": "on"}, "relay"),
        ({"weight_dtype": "int8"}, "weight_dtype"),
        ({"overlap": "all"}, "overlap"),
    ],
)
def test_bad_options_name_their_place(change: dict[str, object], place: str) -> None:
    with pytest.raises(InputError, match=f"^{place}: .*; "):
        replace(OPTIONS, **change)  # type: ignore[arg-type]


def test_a_gpu_without_the_format_is_refused() -> None:
    hopper = get_rack("h200-nvl8")
    with pytest.raises(ProfileError, match="h200: this GPU has no fp4"):
        run(rack=hopper, options=replace(OPTIONS, weight_dtype="fp4"))
