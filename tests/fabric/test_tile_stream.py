"""A tile list in time: by hand, conserved, within the ports, near the closed form."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.relay_choice import candidate_tree
from ultraep_sim.fabric.streaming import distribute
from ultraep_sim.fabric.tile_stream import StreamModel, stream
from ultraep_sim.fabric.tiles import plan_tiles, tile_list
from ultraep_sim.model import get_rack

from .test_tiles import OFFSETS, RANK, SLOT
from .transfer_cases import assert_one_at_a_time, number, plans, toy_stream, wide_plan

US = 1e-6
PAPER = get_rack("paper-rack64")
MODEL = StreamModel.of(PAPER)
SIZES = {"tile_bytes": 1000, "chunk_tiles": 2}


def test_direct_by_hand():
    """Six stores leave rank 0 in turn: 1.5 us for 1000 bytes, 1 us for the last 500."""
    tiles = tile_list(OFFSETS, RANK, SLOT, 3, 2500, **SIZES)
    result = stream(tiles, toy_stream())
    np.testing.assert_allclose(result.finish, [18 * US, 17 * US, 18 * US])
    np.testing.assert_allclose(result.copy_done, [17 * US, 18 * US])
    np.testing.assert_allclose(result.egress_busy, [8 * US, 0, 0], atol=1e-15)
    np.testing.assert_allclose(result.ingress_busy, [0, 4 * US, 4 * US], atol=1e-15)
    expected = np.array([10, 11.5, 13, 14.5, 16, 17]) * US
    np.testing.assert_allclose(result.stores.egress, expected)
    assert result.stores.destination.tolist() == [1, 2, 1, 2, 1, 2]


def test_relay_by_hand():
    """Rank 1 has two tiles at 13 us, may forward them from 15 us, and the last from 16 us."""
    parent = np.array([0, 0, 1, 1], np.int32)
    tiles = tile_list(OFFSETS, RANK, SLOT, 3, 2500, parent=parent, **SIZES)
    result = stream(tiles, toy_stream())
    np.testing.assert_allclose(result.finish, [14 * US, 19 * US, 19 * US])
    np.testing.assert_allclose(result.stores.egress, np.array([10, 11.5, 13, 15, 16.5, 18]) * US)
    later = stream(tiles, toy_stream(relay=number(7, "us")))
    np.testing.assert_allclose(later.finish - result.finish, 7 * US)


def test_two_senders_share_a_receiver_by_hand():
    """Ranks 0 and 1 each send one tile to rank 2, which takes one at a time."""
    offsets, rank = np.array([0, 2, 4]), np.array([0, 2, 1, 2], np.int32)
    tiles = tile_list(offsets, rank, np.array([-1, 0, -1, 1], np.int32), 3, 1000, **SIZES)
    result = stream(tiles, toy_stream())
    np.testing.assert_allclose(result.finish, [11.5 * US, 13 * US, 13 * US])
    np.testing.assert_allclose(result.stores.egress, [10 * US, 10 * US])
    np.testing.assert_allclose(result.stores.ingress, [10 * US, 11.5 * US])


def test_one_buffer_pair_loads_while_it_stores():
    """One worker has two buffers: loads of 1 us hide behind stores of 1.5 us but for the first."""
    tiles = tile_list(np.array([0, 2]), RANK[:2], SLOT[:2], 2, 4000, **SIZES)
    model = toy_stream(workers=number(1), hbm=number(1, "GB/s"))
    np.testing.assert_allclose(stream(tiles, model).finish, [17 * US, 17 * US])
    slow = replace(model, hbm=number(0.5, "GB/s"))  # 2 us a load: the memory binds
    np.testing.assert_allclose(stream(tiles, slow).finish, [19.5 * US, 19.5 * US])


def test_a_copy_inside_a_rank_uses_no_port():
    offsets, rank = np.array([0, 3]), np.array([0, 0, 1], np.int32)
    tiles = tile_list(offsets, rank, np.array([-1, 0, 0], np.int32), 2, 2000, **SIZES)
    result = stream(tiles, toy_stream())
    np.testing.assert_allclose(result.finish, [13 * US, 13 * US])
    assert result.sent_bytes().tolist() == [2000, 0]


@st.composite
def lists(draw):
    plan = draw(plans())
    parent = None
    if draw(st.booleans()):
        parent, _ = candidate_tree(plan.offsets, plan.rank, plan.layout.num_ranks)
    return tile_list(
        plan.offsets, plan.rank, plan.slot, plan.layout.num_ranks, draw(st.integers(1, 20000)),
        parent=parent, tile_bytes=draw(st.integers(100, 2000)),
        chunk_tiles=draw(st.integers(1, 9)),
    )  # fmt: skip


@given(tiles=lists(), workers=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_bytes_are_conserved_and_no_port_is_above_its_capacity(tiles, workers, seed):
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.2, 1.0, tiles.num_ranks) if seed % 2 else None
    result = stream(tiles, toy_stream(workers=number(workers)), share)
    away = tiles.pair_bytes.copy()
    np.fill_diagonal(away, 0)
    assert result.sent_bytes().tolist() == away.sum(axis=1).tolist()
    assert result.received_bytes().tolist() == away.sum(axis=0).tolist()
    stores = result.stores
    keys = np.stack([stores.copy, stores.tile], axis=1)
    assert len(np.unique(keys, axis=0)) == len(keys)
    assert len(keys) == len(tiles.copy_rank) * tiles.tiles_per_copy
    remote = stores.source != stores.destination
    assert_one_at_a_time(stores.source[remote], stores.egress[remote], stores.egress_end[remote])
    assert_one_at_a_time(
        stores.destination[remote], stores.ingress[remote], stores.ingress_end[remote]
    )
    # Nothing arrives before it was sent, nor faster than either port allows.
    assert (stores.ingress >= stores.egress - 1e-12).all()
    assert (stores.ingress_end >= stores.egress_end - 1e-12).all()
    speed = np.ones(tiles.num_ranks) if share is None else share
    least = stores.size[remote] * 1e-9 / speed[stores.source[remote]]
    assert (stores.egress_end[remote] - stores.egress[remote] >= least).all()


@given(tiles=lists())
@settings(max_examples=40, deadline=None)
def test_a_relay_forwards_only_what_its_flag_released(tiles):
    stores = stream(tiles, toy_stream()).stores
    arrived = {}
    for copy, tile, end in zip(stores.copy, stores.tile, stores.ingress_end, strict=True):
        chunk = (copy, tile // tiles.chunk_tiles)
        arrived[chunk] = max(arrived.get(chunk, 0.0), end)
    owner = np.repeat(np.arange(len(tiles.task_source)), np.diff(tiles.copy_offsets))
    for copy, tile, start in zip(stores.copy, stores.tile, stores.egress, strict=True):
        wait = tiles.task_wait[owner[copy]]
        if wait >= 0:
            assert start >= arrived[wait, tile // tiles.chunk_tiles] + 2 * US - 1e-12


@given(tiles=lists())
@settings(max_examples=30, deadline=None)
def test_same_list_same_times(tiles):
    one, two = stream(tiles, toy_stream()), stream(tiles, toy_stream())
    assert one.finish.tobytes() == two.finish.tobytes()
    assert one.stores.ingress_end.tobytes() == two.stores.ingress_end.tobytes()


@pytest.mark.parametrize("relay", [False, True])
def test_more_bandwidth_and_less_overhead_are_never_slower(relay):
    """One sender binds here, so its order is fixed: with contention FIFO anomalies are possible."""
    tiles = plan_tiles(wide_plan(), 100_000, relay=relay, **SIZES)
    assert tiles.relayed == relay
    for name, values in {"link": (0.5, 1, 2, 4), "tile_overhead": (900, 500, 100, 0)}.items():
        times = [
            stream(tiles, toy_stream(**{name: number(v, toy_stream().__dict__[name].unit)})).seconds
            for v in values
        ]
        assert times == sorted(times, reverse=True)
        assert times[0] > times[-1]


@given(plan=plans(max_ranks=16))
@settings(max_examples=40, deadline=None)
def test_closed_form_agrees_with_the_tiles(plan):
    """Direct within 2 %; contention can only add to the busiest port."""
    size = 4 * 2**20
    closed = distribute(PAPER, plan.sends_per_rank[None], plan.receives_per_rank[None], size).max()
    simulated = stream(plan_tiles(plan, size), MODEL).seconds
    assert closed * (1 - 1e-9) <= simulated <= closed * 1.02


@pytest.mark.parametrize("fanout", [6, 9, 12])
def test_closed_form_agrees_with_the_relayed_tiles(fanout):
    plan = wide_plan(fanout)
    tiles = plan_tiles(plan, 36 * 2**20, relay=True)
    sent = tiles.pair_bytes.sum(axis=1) // tiles.copy_bytes
    closed = distribute(
        PAPER, sent[None], plan.receives_per_rank[None], tiles.copy_bytes, np.array([True])
    ).max()
    simulated = stream(tiles, MODEL).seconds
    assert closed * (1 - 1e-9) <= simulated <= closed * 1.03


def test_workers_do_not_bind():
    tiles = plan_tiles(wide_plan(), 2 * 2**20, relay=True)
    times = [stream(tiles, replace(MODEL, workers=number(n))).seconds for n in (8, 16, 64)]
    assert max(times) < 1.03 * min(times)


def test_a_weak_link_slows_its_rank():
    plan = wide_plan()
    share = np.ones(16)
    victim = int(plan.rank[plan.is_replica][0])
    share[victim] = 0.02
    whole = stream(plan_tiles(plan, 50_000, **SIZES), toy_stream())
    weak = stream(plan_tiles(plan, 50_000, **SIZES), toy_stream(), share)
    assert weak.finish[victim] > 1.5 * whole.finish[victim]
    assert weak.received_bytes().tolist() == whole.received_bytes().tolist()


@pytest.mark.parametrize("share", [np.ones(2), np.array([1, 0, 1.0]), np.array([1, 1.1, 1])])
def test_a_share_is_one_a_rank_above_0(share):
    with pytest.raises(InputError, match="link_share"):
        stream(tile_list(OFFSETS, RANK, SLOT, 3, 2500), toy_stream(), share)


def test_no_replica_no_time():
    tiles = tile_list(np.array([0, 1]), RANK[:1], SLOT[:1], 3, 2500)
    result = stream(tiles, toy_stream())
    assert result.seconds == 0.0
    assert result.sent_bytes().tolist() == [0, 0, 0]


def test_the_paper_rack_streams_a_copy_in_its_published_time():
    plan = wide_plan()
    copies = int(plan.sends_per_rank.max())
    got = stream(plan_tiles(plan, 36 * 2**20), MODEL).seconds
    assert got == pytest.approx(8e-6 + copies * 51.5e-6, rel=1e-3)
